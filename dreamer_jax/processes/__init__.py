"""Several processes, or threads, that share work."""
