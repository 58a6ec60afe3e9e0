"""Environments that are not quite those of training: other looks, physics, senses or scenes, in three severities."""
