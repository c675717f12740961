"""What each command does once its configuration is known to be good."""
