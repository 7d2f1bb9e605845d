"""State shared by all benchmarks: the config, the sizes of a run, cached objects."""

import functools
from typing import Any

from benchmarks.roofline import Roofline
from benchmarks.synthetic import Task


class Bench:
    """One run of the benchmarks.

    Args:
        config: the whole config.
        flags: the flags of the training that give this config.
        precisions: of the update, each 32, 16 or bfloat16; empty: those that suit the device.
        quick: small counts, and only the precision of the config.
    """

    def __init__(self, config, flags: list[str], precisions: list[str], quick: bool):
        self.config, self.flags, self.quick = config, flags, quick
        self._asked = precisions
        self.budget = 0.5 if quick else 10.0  # seconds per row
        self.roofline = Roofline(quick)
        self._agent: tuple[str, Any] = ("", None)
        self.device = ""  # a sentence about the device, once TensorFlow has started
        self.parts: dict[str, float] = {}  # seconds of each part of one update, see parts.py

    @functools.cache  # noqa: B019 - there is one Bench
    def start_tensorflow(self) -> None:
        """Import TensorFlow before the table, which its remarks would tear apart."""
        from dreamerv2.common.nn.device import set_up_devices

        self.device = set_up_devices()
        print(self.device, flush=True)

    @functools.cached_property
    def task(self) -> Task:
        """Shapes of the config's task."""
        return Task(self.config)

    @functools.cached_property
    def precisions(self) -> list[str]:
        """Values of --precision; the parts are measured in the first."""
        from dreamerv2.common.nn.device import gpus
        from dreamerv2.common.nn.precision import PRECISIONS, compute_dtype

        default = compute_dtype(self.config.precision).name
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        others = ["bfloat16", "32", *(["16"] if gpus() else [])]  # on a CPU, 16 takes minutes
        wanted = [names[default], *([] if self.quick else others)]
        return self._asked or list(dict.fromkeys(wanted))

    def agent(self, precision: str):
        """Return an agent of this precision; the latest agent is cached."""
        from dreamerv2.agent import Agent

        if self._agent[0] != precision:
            self._agent = ("", None)  # frees the memory of the other agent first
            config, task = self.config.update(precision=precision), self.task
            agent = Agent(config, task.shapes, task.actions, task.discrete)
            self._agent = (precision, agent)
        return self._agent[1]
