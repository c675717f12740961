"""The work of each command, once its configuration is known to be valid."""
