"""Find, read and compare final answers in mathematics, exactly."""
