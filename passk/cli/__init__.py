"""The command line: `passk COMMAND`, sweeps, ranks, and resuming."""
