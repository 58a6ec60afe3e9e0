"""Numbers recorded from the references beside ours; ``python benchmarks/parity FILE.npz`` compares them."""
