"""Collected experience that a world model is trained on or looked at with, apart from any run."""
