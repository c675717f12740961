"""Run directories: write them, read them (without torch), name runs and rebuild them."""
