"""Final answers in mathematics: found in a text, read as exact values, compared."""
