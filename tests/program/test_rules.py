"""Impossible values are refused with a sentence, unusual ones are not."""

import re

import pytest

from dreamerv2 import rules
from dreamerv2.common.config import flags
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.paths import load_configs
from dreamerv2.common.errors import UserError

CONFIGS = load_configs()
DEFAULTS = Config(CONFIGS["defaults"])


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configs_are_possible(name):
    rules.validate(flags.choose(CONFIGS, [name]))


def test_every_rule_concerns_a_knob():
    for names in rules.RULES:
        for part in names.split("|") if "(" not in names else [names]:
            assert any(re.fullmatch(part, key) for key in DEFAULTS.flat), f"{part} checks nothing"


def test_every_number_and_word_has_a_rule():
    # The world model checks grad_heads: a user's own head is among its heads.
    free = ("log_keys_video", "expl_intr_scale", "expl_extr_scale", "grad_heads")
    bare = [
        key
        for key, value in DEFAULTS.flat.items()
        if not isinstance(value, bool) and not any(re.fullmatch(r, key) for r in rules.RULES)
    ]
    assert set(bare) == set(free), "a knob takes impossible values"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dataset.length": 0}, "--dataset.length 0 is not possible: it must be at least 2."),
        ({"precision": 8}, "--precision 8 is not possible: it must be one of auto, 32"),
        ({"replay.minlen": 51}, "--replay.minlen 51 .* at most replay.maxlen, 50."),
        ({"replay.capacity": 10}, "--replay.capacity 10 .* replay.minlen, 50"),
        ({"envs": 0}, "at least 1"),
        ({"action_repeat": -1}, "at least 1"),
        ({"train_every": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"mode": "evl"}, "Did you mean 'eval'"),
        ({"imag_horizon": 1}, "at least 2"),
        ({"discount": 1.01}, "between 0 and 1"),
        ({"discount_lambda": -0.1}, "between 0 and 1"),
        ({"kl.balance": 2}, "between 0 and 1"),
        ({"loss_scales.kl": -1}, "at least 0"),
        ({"loss_scales.mine": -1}, "at least 0"),
        ({"clip_rewards": "clip"}, "one of identity, sign, tanh"),
        ({"expl_behavior": "plan2explor"}, "'plan2explore'"),
        ({"actor_grad": "renforce"}, "'reinforce'"),
        ({"actor.dist": "mse"}, "onehot"),
        ({"rssm.act": "eluu"}, "'elu'"),
        ({"actor.norm": "batch"}, "none, layer"),
        ({"rssm.discrete": 1}, "at least 2, or 0"),
        ({"rssm.std_act": "x"}, "sigmoid2"),
        ({"model_opt.opt": "adm"}, "'adam'"),
        ({"actor_opt.lr": 0}, "larger than 0"),
        ({"critic_opt.wd": 2}, "between 0 and 1"),
        ({"envs_parallel": "proces"}, "'process'"),
        ({"disag_target": "image"}, "stoch"),
        ({"disag_offset": 50, "expl_behavior": "Plan2Explore"}, "dataset.length"),
        ({"dataset.batch": 0}, "at least 1"),
        ({"encoder.cnn_keys": "("}, "regular expression"),
        ({"log_keys_sum": "*"}, "regular expression"),
        ({"render_size": [64]}, "2 values"),
        ({"encoder.cnn_kernels": [4, 0]}, "each at least 1"),
        ({"logdir": "~nobody-of-that-name/x"}, "home directory exists"),
        ({"time_limit": 48}, "replay.minlen = 50 rows"),
        ({"checkpoint_every": "soon"}, "600s"),
        ({"checkpoint_every": "0s"}, "positive"),
        ({"checkpoint_every": "0.5"}, "1e4 for agent steps"),
        ({"checkpoint_every": "1_000"}, "1e4 for agent steps"),
        ({"envs_parallel": "thread"}, "none, process, since Python threads"),
        ({"actor_ent": -1}, "at least 0"),
        ({"actor_grad_mix": "linear(0,2,100)"}, "between 0 and 1"),
        ({"actor_ent": "warmup(100,-1)"}, "at least 0"),
        ({"task": ""}, "--task '' .* given"),
        ({"checkpoint": "~/run"}, "continues from the newest checkpoint of its own --logdir"),
    ],
)
def test_impossible_values_fail_with_a_sentence(change, message):
    with pytest.raises(UserError, match=message) as error:
        rules.validate(DEFAULTS.update(change))
    assert str(error.value).startswith(f"--{next(iter(change))} ")


@pytest.mark.parametrize(
    "change",
    [
        *[{"expl_behavior": name} for name in ("Random", "Plan2Explore", "ModelLoss", "random")],
        {"replay.maxlen": 0, "replay.minlen": 900},
        {"replay.capacity": 0},
        {"expl_extr_scale": -1},
        {"actor_ent": "horizon(10,100,5)"},
        {"actor_grad_mix": "linear(0,1,100)"},
        {"grad_heads": []},
    ],
)
def test_unusual_values_are_possible(change):
    rules.validate(DEFAULTS.update(change))
