"""Finding, reading and comparing results of runs, for plot.py and evaluation."""
