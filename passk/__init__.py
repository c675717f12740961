"""passk: what does optimising Pass@k do to Pass@1, on which prompts, and what can be done?"""

__version__ = "0.1.0"
