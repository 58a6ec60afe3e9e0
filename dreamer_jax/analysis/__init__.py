"""Reading the results of runs: tables, statistics and pictures."""
