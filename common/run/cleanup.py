"""Closing what a run has open."""

import contextlib
from typing import Any


class Cleanup:
    """Closes what a run has open, in this order, whatever ends it and whichever cannot close."""

    def __init__(self, *resources: Any):
        self._resources = resources

    def __enter__(self) -> "Cleanup":
        return self

    def add(self, resource: Any) -> None:
        """Close this one too."""
        self._resources = (*self._resources, resource)

    def forget(self) -> None:
        """Close nothing: somebody else will."""
        self._resources = ()

    def __exit__(self, *unused: object) -> None:
        with contextlib.ExitStack() as stack:
            for resource in reversed(self._resources):
                stack.callback(resource.close)
