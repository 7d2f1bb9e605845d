"""Metrics and videos of finished episodes, collected row by row in bounded memory."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreamerv2.common.logger.logger import Logger
from dreamerv2.common.run.when import Counter, Every

# Limits of one video, in frames and in bytes.
MAX_FRAMES, MAX_BYTES = 3000, 256e6
ALWAYS = ("total_steps", "total_episodes", "loaded_steps", "loaded_episodes")  # even if zero


def counts(stats: Mapping[str, int]) -> dict[str, int]:
    """Return the statistics of a replay, without counts of problems that are zero."""
    return {key: count for key, count in stats.items() if count or key in ALWAYS}


class EpisodeLog:
    """Logs each finished episode: return, length, chosen entries and videos of environment 0.

    A driver calls it with every row (`on_step`). The last return is in `latest`.

    Args:
        mode: train or eval, the prefix of the metrics.
        video_every: agent steps between videos; 0 for none.
        keys: "sum", "mean" and "max" -> regular expression of the observation keys logged that way;
            "video" -> list of the image keys to film. ["image"] stands for all images if none has
            that name.
        more: returns further numbers to log with an episode.
    """

    def __init__(
        self,
        mode: str,
        logger: Logger,
        step: Counter,
        video_every: int,
        keys: Mapping[str, Any],
        more: Callable[[], Mapping[str, int]] = dict,
    ):
        self._mode, self._logger, self._step = mode, logger, step
        self._films = video_every > 0
        self._keys, self._more = keys, more
        self._episodes: dict[int, _Episode] = {}
        self._missing: set[str] = set()
        self.should_video = Every(video_every)
        self.latest: dict[str, float] = {}

    def __call__(self, row: Mapping[str, np.ndarray], index: int) -> None:
        """Take a row of environment `index`; log the episode if the row is its last."""
        if row["is_first"]:
            videos = self._videos(row) if self._films and index == 0 else []
            self._episodes[index] = _Episode(row, self._keys, videos)
        self._episodes[index].add(row)
        if row["is_last"]:
            self._log(self._episodes.pop(index), index)

    def _log(self, episode: "_Episode", index: int) -> None:
        self.latest = {f"{self._mode}_return": episode.score}
        self._logger.add({"return": episode.score, "length": episode.rows - 1}, self._mode)
        for (name, key), value in episode.entries().items():
            self._logger.scalar(f"{name}_{self._mode}_{key}", value)
        self._logger.add(self._more(), self._mode)
        if index == 0 and self.should_video(self._step):
            for key, frames in episode.videos.items():
                self._logger.video(f"{self._mode}_policy_{key}", frames)
        self._logger.write()

    def _videos(self, row: Mapping[str, np.ndarray]) -> list[str]:
        """Return the image keys to film; report once those that are no images."""
        images = [key for key, value in row.items() if np.ndim(value) == 3]
        chosen = list(self._keys["video"])
        if chosen == ["image"]:
            return chosen if "image" in images else images
        for key in set(chosen) - set(images) - self._missing - {"image"}:
            self._missing.add(key)
            found = ", ".join(images) or "none"
            print(f"--log_keys_video {key} is no image; there are {found}.", flush=True)
        return [key for key in chosen if key in images]


class _Episode:
    """Running totals of an unfinished episode, and the frames of its videos."""

    def __init__(self, row: Mapping[str, Any], keys: Mapping[str, Any], videos: list[str]):
        self.score, self.rows = 0.0, 0
        self.videos: dict[str, list[np.ndarray]] = {key: [] for key in videos}
        names = ("sum", "mean", "max")
        self._chosen = [(n, key) for n in names for key in row if re.match(keys[n], key)]
        self._sums = {key: 0.0 for _, key in self._chosen}
        self._highest = {key: np.asarray(-np.inf) for key in self._sums}

    def add(self, row: Mapping[str, np.ndarray]) -> None:
        self.score += float(row["reward"])
        self.rows += 1
        for key in self._sums:
            self._sums[key] += np.asarray(row[key], np.float64).sum()
            self._highest[key] = np.maximum(self._highest[key], row[key])
        for key, frames in self.videos.items():
            if self.rows <= min(MAX_FRAMES, 1 + MAX_BYTES // row[key].nbytes):
                frames.append(row[key])

    def entries(self) -> dict[tuple[str, str], float]:
        """Return sums and means of all elements, and for "max" the mean of their maxima."""
        results = {}
        for name, key in self._chosen:
            highest, total = self._highest[key], self._sums[key]
            mean = total / (self.rows * highest.size)
            results[name, key] = {"sum": total, "mean": mean, "max": highest.mean()}[name]
        return results
