"""DreamerV2: Mastering Atari with Discrete World Models (arXiv 2010.02193)."""

__version__ = "2.0.0"
