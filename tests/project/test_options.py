"""Options and named configs are an interface: those of the 2021 release, and listed differences."""

import re
from pathlib import Path

import pytest

from dreamerv2 import validation
from dreamerv2.common.config import flags
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.paths import load_configs
from dreamerv2.common.config.yaml import read_yaml

CONFIGS = load_configs()
DEFAULTS = Config(CONFIGS["defaults"])
RELEASE = read_yaml(Path(__file__).parent / "data" / "release.yaml")

DIFFERENT = {"precision": "auto: float16 is slow on a CPU, where bfloat16 or float32 is chosen"}
NEW = {
    "logdir": "required, so the default is empty",
    "mode": "evaluation and dreams of a finished run by the same command",
    "checkpoint": "evaluation of an older checkpoint",
    "checkpoint_every": "checkpoints in seconds or steps, not at every evaluation",
    "env_restarts": "an environment that fails is made anew",
    "env_timeout": "a worker that hangs is noticed",
    "atari_all_actions": "the full action set, for atari_paper",
}
# Named configs of ours that have an oracle: table D.1 and the ablations of the paper.
PAPER = {
    "atari_paper": {
        "dataset.batch": 50,
        "train_every": 4,
        "discount": 0.995,
        "atari_all_actions": True,
    },
    "no_image_gradients": {"grad_heads": ("reward", "discount")},
    "no_reward_gradients": {"grad_heads": ("decoder", "discount")},
    "no_reinforce": {"actor_grad": "dynamics"},
    "no_kl_balancing": {"kl.balance": 0.5},
    "gaussian_latents": {"rssm.discrete": 0},
}
SUITES = ("defaults", "atari", "atari_paper", "crafter", "dmc_vision", "dmc_proprio")


@pytest.mark.parametrize("name", RELEASE)
def test_named_config_has_the_values_of_the_release(name):
    theirs = Config(RELEASE["defaults"]).update(RELEASE[name] if name != "defaults" else {}).flat
    ours = flags.choose(CONFIGS, [name]).flat
    assert ours.keys() - theirs.keys() == NEW.keys(), "a new option needs a reason in NEW"
    assert not theirs.keys() - ours.keys(), "an option of the release is missing"
    # repr tells 1 from 1.0 and True, which are equal.
    changed = {key for key, value in theirs.items() if repr(ours[key]) != repr(value)}
    assert changed == DIFFERENT.keys(), f"{name} differs from the release without a reason"


@pytest.mark.parametrize("name", PAPER)
def test_named_config_changes_what_the_paper_says(name):
    before = flags.choose(CONFIGS, ["atari"])
    after = before.update(CONFIGS[name]).flat
    changed = {key: value for key, value in after.items() if value != before[key]}
    assert changed == PAPER[name]


def test_every_named_config_is_listed_here():
    assert set(CONFIGS) == {*RELEASE, *PAPER, "small", "vectors"}, "a named config without a test"


@pytest.mark.parametrize("suite", SUITES)
def test_named_configs_combine_with_every_suite(suite):
    for name in CONFIGS:
        validation.validate(flags.choose(CONFIGS, [suite, name]))
    small = flags.choose(CONFIGS, [suite, "small"])
    assert small.task == flags.choose(CONFIGS, [suite]).task, "small changes the task"
    sizes = [key for key in small.flat if re.search("hidden|deter|units", key)]
    assert sum(small[key] for key in sizes) < sum(DEFAULTS[key] for key in sizes)


def test_merged_keys_can_be_overridden_by_an_earlier_suite():
    assert flags.choose(CONFIGS, ["atari", "atari_paper"]) == flags.choose(CONFIGS, ["atari_paper"])
