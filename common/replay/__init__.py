"""Experience on disk: episodes are stored whole and sampled as sequences."""

from dreamerv2.common.replay.replay import Replay

__all__ = ["Replay"]
