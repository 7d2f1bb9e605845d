"""Environments side by side, in this process or in worker processes."""
