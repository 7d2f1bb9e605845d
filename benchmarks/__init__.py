"""What the parts of DreamerV2 cost on this machine: `python -m benchmarks --help`."""
