"""Environments as streams of records."""
