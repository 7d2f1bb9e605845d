"""Metrics and videos to the terminal, metrics.jsonl and TensorBoard."""

from dreamerv2.common.logger.logger import Logger

__all__ = ["Logger"]
