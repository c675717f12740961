"""Run directories: write them, read them back (without torch), name and rebuild them."""
