"""Data: sources to problems, problems to prompts, text to token ids and back."""
