"""The command line: `passk COMMAND`, sweeps, ranks, resuming."""
