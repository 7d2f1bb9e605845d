"""A progress bar on a terminal, a plain line where there is none."""

import sys
import time

import tqdm


class Progress:
    """Shows how far a phase of the run is, with its rate, time left and the last return.

    Use as a context manager. Where standard error is no terminal it prints one line when the phase
    begins and one when it ends.

    Args:
        label: what is going on, such as "Prefill".
        total: units until the end.
        unit: what is counted, in the plural.
        done: units already done.
    """

    def __init__(self, label: str, total: int, unit: str = "frames", done: int = 0):
        self._label, self._unit, self._done = label, unit, int(done)
        self._total = max(int(total), self._done)
        self._start, self._first = time.monotonic(), int(done)
        self._plain = not sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            desc=label,
            total=self._total,
            initial=self._done,
            unit=f" {unit}",
            disable=self._plain,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def __enter__(self) -> "Progress":
        if self._plain:
            print(f"{self._label}: {self._total - self._done:,} {self._unit}", flush=True)
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.close()
        if self._plain:
            took, did = time.monotonic() - self._start, self._done - self._first
            rate = did / max(took, 1e-9)
            print(f"{self._label}: {did:,} {self._unit} in {took:.1f} s ({rate:.1f}/s)", flush=True)

    def update(self, amount: int) -> None:
        """Count some more units."""
        self._done += amount
        self._bar.update(amount)

    def show(self, **values: float) -> None:
        """Show values behind the bar, such as the last return."""
        shown = {key: f"{value:.4g}" for key, value in values.items()}
        self._bar.set_postfix(shown, refresh=False)  # Drawn with the bar, not at every step.
