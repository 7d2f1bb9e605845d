"""What a run leaves behind: its config, spaces, weights and episodes.

To look at them disturbs no run that is still alive: nothing here takes the run's lock or removes a
file.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import UserError
from dreamerv2.common.npzlayout import Damaged
from dreamerv2.common.replay.episode import FileCache, StoredEpisode, trained_on
from dreamerv2.common.run.checkpoint import Checkpoint, load_version
from dreamerv2.learner import load_agent


class Weights(NamedTuple):
    """A checkpoint as `checkpoint.Checkpoint` loads it."""

    step: int  # agent steps
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def folder(config: Config) -> Path:
    """Return the folder of the run to look at: the one that holds --checkpoint, else --logdir.

    Raises:
        UserError: neither is the folder of a run.
    """
    if config.checkpoint:
        path = Path(config.checkpoint).expanduser().absolute()
        found = [p for p in (path, *path.parents[:2]) if (p / "config.yaml").is_file()]
        if found:
            return found[0]
    if not config.logdir:
        raise UserError(
            f"Which run is --mode {config.mode} for? Give its directory, such as "
            "--logdir ~/logdir/run1."
        )
    logdir = Path(config.logdir).expanduser()
    if not (logdir / "config.yaml").is_file():
        raise UserError(f"There is no run in {logdir}: it has no config.yaml. Train one first.")
    refuse_release(logdir)
    return logdir


def refuse_release(run: Path) -> None:
    """Refuse the run directory of the 2021 release, whose checkpoint is a pickle.

    Raises:
        UserError: the directory has such a checkpoint, and none of this program.
    """
    path = run / "variables.pkl"
    if path.is_file() and not (run / "checkpoints").is_dir():
        raise UserError(
            f"{path} is a checkpoint of the 2021 release, a pickle that this program cannot read: "
            "train anew in another --logdir, to which its train_episodes may be copied."
        )


def read_config(run: Path, defaults: Config) -> Config:
    """Return the config of a run; options that it does not have keep their defaults.

    Raises:
        UserError: it cannot be read, or has options that this program does not know.
    """
    return defaults.update(Config.load(run / "config.yaml").flat)


def base_config(config: Config, configs: Mapping[str, Mapping]) -> Config:
    """Return what the flags of --mode eval and dream start from: the run's own config.

    Args:
        config: from the flags alone; names the run.
        configs: as from paths.load_configs().

    Raises:
        UserError: there is no such run, or no reading its config.
    """
    run = folder(config)
    own = read_config(run, Config(configs["defaults"]))
    mine = {"mode": config.mode, "checkpoint": config.checkpoint}
    return own.update({"logdir": config.logdir or str(run), **mine})


def read_weights(config: Config) -> Weights:
    """Load --checkpoint (a version's folder, the folder of all, or a run), else the newest one.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(config.checkpoint).expanduser() if config.checkpoint else folder(config)
    # Versions are named by their step, and so is a run that is named by a date.
    is_run = (path / "config.yaml").is_file()
    loaded = load_version(path) if path.is_dir() and not is_run else None
    if loaded is None:
        inside = path / "checkpoints"
        path = inside if inside.is_dir() or not config.checkpoint else path
        loaded = Checkpoint(path, readonly=True).load()
    if loaded is None:
        raise UserError(
            f"There is no checkpoint in {path}: train until the first one is saved, or give the "
            "path of another one as --checkpoint."
        )
    return Weights(*loaded)


def frames(config: Config, step: int) -> int:
    """Return the environment frames of a run after so many of its agent steps.

    They are those of its training, whatever --action_repeat an evaluation plays with.
    """
    try:
        own = read_config(folder(config), config)
    except UserError:  # a checkpoint on its own: its run is not known
        own = config
    return step * own.action_repeat


def load_weights(agent: Any, weights: Weights) -> None:
    """Give an agent that will only act what it has learned.

    The optimizers keep their initial state: it differs with the precision (float16 has a loss
    scale), and a run of a GPU should play anywhere.

    Raises:
        UserError: the weights belong to another architecture; names what differs.
    """
    arrays = {k: v for k, v in weights.arrays.items() if not _of_optimizer(k)}
    own = {k: v for k, v in agent.save()[0].items() if _of_optimizer(k)}
    load_agent(agent, {**arrays, **own}, weights.state.get("draws", {}))


def _of_optimizer(name: str) -> bool:
    # An observation, whose name is in its network's, may be called foo_opt.
    return re.match(r"(world_model|(task|expl)/(actor|critic|head))_opt/", name) is not None


def sequences(run: Path, length: int, count: int, seed: int) -> dict[str, np.ndarray]:
    """Read one sequence from each of the newest episodes, those of evaluations first.

    Args:
        run: folder of the run.
        length: rows of a sequence; fewer if no episode has so many.
        count: sequences wanted; there are fewer if there are fewer episodes.
        seed: decides where in an episode its sequence starts.

    Returns: key -> [N, T, ...], a batch as the replay gives it.

    Raises:
        UserError: there is no episode.
    """
    episodes = list(_newest(run, 4 * count))
    longest = max((episode.rows for episode in episodes), default=0)
    if longest < 2:
        raise UserError(f"{run} holds no whole episode yet, so there is nothing to dream about.")
    length = min(length, longest)
    generator, rows = np.random.default_rng(seed), []
    for episode in [e for e in episodes if e.rows >= length]:
        start = int(generator.integers(episode.rows - length + 1))
        try:
            rows.append(_read(episode, start, length))
        except Damaged as problem:
            print(f"Passed over {episode.path}: {problem}.", flush=True)
        if len(rows) == count:
            break
    if not rows:
        raise UserError(f"No episode in {run} can be read, so there is nothing to dream about.")
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _read(episode: StoredEpisode, start: int, length: int) -> dict[str, np.ndarray]:
    keys = {key: member for key, member in episode.layout.items() if trained_on(key)}
    row = {key: np.empty((length, *m.shape), m.dtype) for key, m in keys.items()}
    files = FileCache()
    try:
        episode.read(start, row, files)
    finally:
        files.close()
    row["is_first"][0] = True  # as in every batch: the model knows nothing of what was before
    return row


def _newest(run: Path, limit: int) -> Iterator[StoredEpisode]:
    """Open the newest episodes; the running process may delete one at any time."""
    found = 0
    for name in ("eval_episodes", "train_episodes"):
        for path in sorted((run / name).glob("*.npz"), reverse=True):
            try:
                episode = StoredEpisode(path)
            except (Damaged, FileNotFoundError) as problem:
                print(f"Passed over {path}: {problem}.", flush=True)
                continue
            yield episode
            found += 1
            if found >= limit:
                return


def prepare(config: Config, logdir: Path, fixed: Sequence[str]) -> None:
    """Put the config into a new run directory, or name what changed since the last start.

    A run that continues takes over its new config (`train` saves it) once its checkpoint has turned
    out to fit: a mistake must not overwrite the config that the checkpoint was made with.

    Args:
        fixed: keys whose values a run keeps.

    Raises:
        UserError: the directory cannot be written, its config not read, or a fixed value changed.
    """
    refuse_release(logdir)
    path = logdir / "config.yaml"
    if not path.exists():
        save_config(config)
    before, now = Config.load(path).flat, config.flat
    for key in fixed:
        if before.get(key, now[key]) != now[key]:
            raise UserError(
                f"The run in {logdir} has {key} {before[key]}, not {now[key]}: give the flags and "
                "--configs it was started with, or another --logdir."
            )
    for key in sorted(before.keys() | now.keys()):
        # An option that the run does not have is new in the program, unless it is a user's own.
        known = key in before or config.is_open(key)
        was, new = before.get(key, "not set"), now.get(key, "not set")
        if known and was != new:
            print(f"Changed since the last start: {key} was {was}, now {new}.")


def save_config(config: Config) -> None:
    """Put the config into the run directory.

    Raises:
        UserError: it cannot be written.
    """
    logdir = Path(config.logdir).expanduser()
    try:
        logdir.mkdir(parents=True, exist_ok=True)
        config.save(logdir / "config.yaml")
    except OSError as error:
        raise UserError(f"The logdir {logdir} cannot be written: {error.strerror}.") from error
