"""Final answers in mathematics: find them in a text, read them exactly, compare them."""
