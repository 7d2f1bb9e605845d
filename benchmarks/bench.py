"""What all benchmarks share: the config, the sizes of a run, and things that are made once."""

import functools
from typing import Any

from benchmarks.roofline import Roofline
from benchmarks.synthetic import Task


class Bench:
    """One run of the benchmarks.

    Args:
        config: the whole config.
        flags: the training's command line flags that give this config.
        precisions: to measure the update in, each 32, 16, bfloat16; empty: what suits the device.
        quick: small counts, and only the precision that the config would run with.
    """

    def __init__(self, config, flags: list[str], precisions: list[str], quick: bool):
        self.config, self.flags, self.quick = config, flags, quick
        self._asked = precisions
        self.budget = 0.5 if quick else 10.0  # seconds per row
        self.roofline = Roofline(quick)
        self._agent: tuple[str, Any] = ("", None)
        self.device = ""  # a sentence on what is computed on, once TensorFlow has started
        self.parts: dict[str, float] = {}  # seconds of the parts of one update, see parts.py

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
        """Names as --precision takes them; the first is the one that parts are measured in."""
        from dreamerv2.common.nn.device import gpus
        from dreamerv2.common.nn.precision import PRECISIONS, compute_dtype

        default = compute_dtype(self.config.precision).name
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        others = ["bfloat16", "32", *(["16"] if gpus() else [])]  # on a CPU, 16 takes minutes
        wanted = [names[default], *([] if self.quick else others)]
        return self._asked or list(dict.fromkeys(wanted))

    def agent(self, precision: str):
        """An agent of that precision; the one made last is kept."""
        from dreamerv2.agent import Agent

        if self._agent[0] != precision:
            self._agent = ("", None)  # so that the memory of only one is taken
            config, task = self.config.update(precision=precision), self.task
            agent = Agent(config, task.shapes, task.actions, task.discrete)
            self._agent = (precision, agent)
        return self._agent[1]
