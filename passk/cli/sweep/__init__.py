"""Sweeps (`-m`): plan the cells, run each as a process, report their states."""
