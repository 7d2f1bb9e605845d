"""A resumed agent's next update is the uninterrupted one's, bit for bit, with the real agent."""

import numpy as np
import pytest
from commandline import TINY

from dreamerv2.agent import Agent
from dreamerv2.common.config import paths
from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import UserError
from dreamerv2.common.replay.replay import Replay
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.learner import Learner

SHAPES = {"image": (64, 64, 1), "place": (2,)}
VARIANTS = {
    "float32": ["--precision", "32"],
    "float16": ["--precision", "16"],
    "bfloat16, explorer": [
        *("--precision", "bfloat16", "--expl_behavior", "plan2explore", "--disag_models", "2")
    ],
    "long sequences, normal latents": [
        *("--precision", "32", "--rssm.discrete", "0", "--replay.maxlen", "0"),
        *("--reward_norm.momentum", "0.9", "--slow_target_update", "3"),
    ],
}


def make_config(*flags) -> Config:
    """The config of a tiny model."""
    few = ["--dataset.batch", "3", "--dataset.length", "6", "--replay.minlen", "6"]
    few += ["--replay.maxlen", "9"]
    return Config(paths.load_configs()["defaults"]).parse_flags([*TINY, *few, *flags])


def make_learner(config, folder) -> Learner:
    """A new agent on the replay in the folder, as train.py makes them."""
    replay = Replay(folder / "episodes", **{**config.replay, "capacity": 0}, seed=config.seed)
    if not replay.ready:
        fill(replay)
    agent = Agent(config, SHAPES, 3, True)
    return Learner(agent, replay.dataset(**config.dataset, place=agent.place), folder)


def fill(replay: Replay) -> None:
    """Store five episodes of random rows."""
    rng = np.random.default_rng(0)
    for length in (8, 13, 20, 9, 30):
        for t in range(length):
            replay.add_step(
                {
                    "image": rng.integers(0, 256, (64, 64, 1), np.uint8),
                    "place": rng.normal(size=2).astype(np.float32),
                    "action": np.eye(3, dtype=np.float32)[t % 3] * (t > 0),
                    "reward": np.float32(t > 0),
                    "is_first": np.bool_(t == 0),
                    "is_last": np.bool_(t == length - 1),
                    "is_terminal": np.bool_(t == length - 1),
                }
            )


def act(agent) -> np.ndarray:
    """What the agent does next."""
    obs = {key: np.zeros((2, *shape), np.uint8) for key, shape in SHAPES.items()}
    obs["place"] = obs["place"].astype(np.float32)
    return agent.policy({**obs, "is_first": np.ones(2, bool)})[0]["action"]


def assert_same(one, other, what) -> None:
    assert one.keys() == other.keys(), f"{what}: other names"
    for name in one:
        a, b = np.asarray(one[name]), np.asarray(other[name])
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), f"{what}: {name} differs"


@pytest.mark.parametrize(
    "variant",
    [v if v == "float16" else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS],
)
def test_the_next_updates_are_bit_identical_after_a_resume(variant, tmp_path):
    config = make_config(*VARIANTS[variant])
    one = make_learner(config, tmp_path)
    for update in range(2):
        one.update(update)
    act(one.agent)
    if variant == "float16":  # neither where it began, nor a power that another start would reach
        one.agent.model_opt.scaling.scale.assign(2.0**11)
        one.agent.model_opt.scaling.finite.assign(1999)
    Checkpoint(tmp_path / "checkpoints").save(30, *one.save())

    other = make_learner(config, tmp_path)
    step, arrays, state = Checkpoint(tmp_path / "checkpoints").load()
    assert step == 30
    other.load(arrays, state)
    for update in range(2, 4):
        for learner in (one, other):
            learner.metrics()
            learner.update(update)
        assert_same(one.save()[0], other.save()[0], f"after update {update}")
        assert_same(one.metrics(), other.metrics(), f"metrics of update {update}")
    assert one.save()[1] == other.save()[1], "random streams or places in the replay differ"
    np.testing.assert_array_equal(act(one.agent), act(other.agent), "the next action differs")
    if variant == "float16":
        scale = float(arrays["world_model_opt/loss_scale"])
        after = float(other.agent.model_opt.scaling.scale)
        assert (scale, after) == (2.0**11, 2.0**12), "the streak that doubles it was forgotten"
    now = other.save()[0]
    changed = [name for name in arrays if arrays[name].tobytes() != now[name].tobytes()]
    assert len(changed) > len(arrays) / 2, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("--rssm.deter", "24"), r"dense0/kernel is \[32, 16\] in the checkpoint, \[40, 16\]"),
        (("--actor_opt.opt", "sgd"), "actor_opt/slot.* is unknown to this model"),
        (("--expl_behavior", "greedy"), "expl/.* is unknown to this model.*give --expl_until"),
    ],
)
def test_another_model_or_optimizer_is_named_entry_by_entry(tmp_path, change, what):
    explores = ("--expl_behavior", "plan2explore") if change[0] == "--expl_behavior" else ()
    one = make_learner(make_config("--precision", "32", *explores), tmp_path)
    one.update(0)
    arrays, state = one.save()
    other = make_learner(make_config("--precision", "32", *change), tmp_path)
    with pytest.raises(UserError, match=f"another architecture, optimizer or.*{what}"):
        other.load(arrays, state)


@pytest.mark.parametrize("before, after", [("32", "16"), ("16", "32")])
def test_another_precision_continues(before, after, tmp_path):
    one = make_learner(make_config("--precision", before), tmp_path)
    one.update(0)
    arrays, state = one.save()
    other = make_learner(make_config("--precision", after), tmp_path)
    other.load(arrays, state)
    now = other.save()[0]
    same = [name for name in arrays if "loss_scale" not in name and "carry/" not in name]
    assert all(np.array_equal(arrays[name], now[name]) for name in same), "weights were changed"
    if after == "16":
        assert now["world_model_opt/loss_scale"] == 2.0**15, "a new loss scale"
    other.update(1)


def test_another_action_space_is_named(tmp_path):
    one = make_learner(make_config("--precision", "32"), tmp_path)
    other = Learner(Agent(one.agent.config, SHAPES, 4, True), one.dataset, tmp_path)
    with pytest.raises(UserError, match=r"actor/.* is \[\d+, 3\] in the checkpoint, \[\d+, 4\]"):
        other.load(*one.save())
