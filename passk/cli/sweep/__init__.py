"""Sweeps (`-m`): plan the cells, run each as a process, tell how they stand."""
