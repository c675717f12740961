"""Sweeps (`-m`): plan the cells, run each as a process, show how they stand."""
