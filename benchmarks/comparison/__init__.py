"""World models, end-to-end reinforcement learning and behaviour cloning on the same worlds, counted alike."""
