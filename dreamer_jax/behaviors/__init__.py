"""Behaviours learnt in imagination."""
