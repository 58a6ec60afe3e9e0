"""Environments that are pure functions of JAX, of several suites or your own."""
