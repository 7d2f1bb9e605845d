"""Options: defaults and named sets from configs.yaml, flags over them."""

from dreamerv2.common.config.config import Config

__all__ = ["Config"]
