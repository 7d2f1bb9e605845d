"""A run's directory, read only: config, weights and episodes.

The run may be training meanwhile: nothing here takes its lock, or writes or removes a file.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import DamagedFile, UserError
from dreamerv2.common.replay.episode import ArrayCache, StoredEpisode, trained_on
from dreamerv2.common.run.checkpoint import Checkpoint, load_version
from dreamerv2.learner import match_variables

# Names of its variables. An observation may be called foo_opt, and a network's names contain it.
OPTIMIZER = re.compile(r"(world_model|(task|expl)/(actor|critic|head))_opt/")


class Weights(NamedTuple):
    """A checkpoint, as run.checkpoint.Checkpoint loads it."""

    step: int  # agent steps
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def find_run(config: Config) -> Path:
    """Return the directory of the run that holds --checkpoint, else --logdir."""
    if config.checkpoint:
        path = _located(config.checkpoint)
        found = [p for p in (path, *path.parents[:2]) if (p / "config.yaml").is_file()]
        if found:
            return found[0]
    if not config.logdir:
        mode = config.mode
        raise UserError(f"Which run is --mode {mode} for? Give its --logdir ~/logdir/run1.")
    logdir = _located(config.logdir)
    if not (logdir / "config.yaml").is_file():
        raise UserError(f"There is no run in {logdir}: it has no config.yaml. Train one first.")
    refuse_release(logdir)
    return logdir


def _located(path: str) -> Path:
    """Return an absolute path; one that does not exist may lie in the package (scores/...)."""
    found, packaged = Path(path).expanduser().absolute(), paths.package_root() / path
    return packaged if packaged.exists() and not found.exists() else found


def refuse_release(run: Path) -> None:
    """Raise UserError for a run of the 2021 release, whose checkpoint is a pickle."""
    path = run / "variables.pkl"
    if path.is_file() and not (run / "checkpoints").is_dir():
        raise UserError(
            f"{path} is a checkpoint of the 2021 release, a pickle that this program cannot read: "
            "train anew in another --logdir, to which its train_episodes may be copied."
        )


def read_config(run: Path, defaults: Config) -> Config:
    """Return the config of a run; options that it lacks have their defaults."""
    return defaults.update(Config.load(run / "config.yaml").flat)


def base_config(config: Config, configs: Mapping[str, Mapping]) -> Config:
    """Return the run's own config, to which the flags of eval and dream are applied.

    Args:
        config: from the flags alone; names the run.
        configs: as from paths.load_configs().
    """
    run = find_run(config)
    own = read_config(run, Config(configs["defaults"]))
    packaged = (paths.package_root() / "scores").resolve() in run.resolve().parents
    logdir = config.logdir or (f"~/logdir/{run.name}" if packaged else str(run))
    return own.update({"logdir": logdir, "mode": config.mode, "checkpoint": config.checkpoint})


def read_weights(config: Config) -> Weights:
    """Load --checkpoint (a version, the folder of all, or a run), else the newest."""
    path = _located(config.checkpoint) if config.checkpoint else find_run(config)
    # A run may be named by a date, which looks like a version: versions are named by their step.
    is_run = (path / "config.yaml").is_file()
    loaded = load_version(path) if path.is_dir() and not is_run else None
    if loaded is None:
        inside = path / "checkpoints"
        path = inside if inside.is_dir() or not config.checkpoint else path
        loaded = Checkpoint(path).load()
    if loaded is None:
        raise UserError(
            f"There is no checkpoint in {path}: train until one is saved, or give another path as "
            "--checkpoint."
        )
    return Weights(*loaded)


def frames(config: Config, step: int) -> int:
    """Return agent steps of the training in frames, by the run's own action_repeat."""
    try:
        own = read_config(find_run(config), config)
    except UserError:  # the run of a checkpoint that was moved is not known
        own = config
    return step * own.action_repeat


def load_weights(agent: Any, weights: Weights) -> None:
    """Load the weights into an agent that only acts.

    The optimizers keep their initial state, because it depends on the precision (float16 has a loss
    scale) and a run of a GPU should play anywhere.
    """
    arrays = {k: v for k, v in weights.arrays.items() if not OPTIMIZER.match(k)}
    # The agents of the package are stored in float16.
    arrays = {k: np.float32(v) if v.dtype == np.float16 else v for k, v in arrays.items()}
    arrays |= {k: v for k, v in agent.save()[0].items() if OPTIMIZER.match(k)}
    agent.load(match_variables(agent, arrays), weights.state.get("draws", {}))


def sequences(run: Path, length: int, count: int, seed: int) -> dict[str, np.ndarray]:
    """Read a sequence from each of the newest episodes, those of evaluations first.

    Args:
        length: rows of a sequence; fewer if no episode has so many.
        count: number of sequences; fewer if there are fewer episodes.

    Returns: key -> [N, T, ...], a batch as the replay gives it.
    """
    episodes = list(itertools.islice(_newest(run), 4 * count))
    length = min(length, max((episode.rows for episode in episodes), default=0))
    if length < 2:
        raise UserError(f"{run} holds no whole episode yet, so there is nothing to dream about.")
    generator, rows, cache = np.random.default_rng(seed), [], ArrayCache()
    for episode in (e for e in episodes if e.rows >= length):
        start = int(generator.integers(episode.rows - length + 1))
        keys = {key: member for key, member in episode.layout.items() if trained_on(key)}
        row = {key: np.empty((length, *m.shape), m.dtype) for key, m in keys.items()}
        try:
            episode.read(start, row, cache)
        except DamagedFile as problem:
            print(f"Passed over {episode.path}: {problem}.", flush=True)
            continue
        row["is_first"][0] = True  # as in every batch: the model knows nothing of the rows before
        rows.append(row)
    if not rows:
        raise UserError(f"No episode in {run} can be read, so there is nothing to dream about.")
    return {key: np.stack([row[key] for row in rows[:count]]) for key in rows[0]}


def _newest(run: Path) -> Iterator[StoredEpisode]:
    """Open the newest episodes first; the running process may delete one at any time."""
    for name in ("eval_episodes", "train_episodes"):
        for path in sorted((run / name).glob("*.npz"), reverse=True):
            try:
                yield StoredEpisode(path)
            except (DamagedFile, FileNotFoundError) as problem:
                print(f"Passed over {path}: {problem}.", flush=True)
