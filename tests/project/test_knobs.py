"""The knobs of DESIGN section 4, their defaults and the named configs: an interface."""

import re

import pytest

from dreamerv2 import rules
from dreamerv2.common.config import flags
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.paths import configs_path, load_configs, package_root

CONFIGS = load_configs()
DEFAULTS = Config(CONFIGS["defaults"])

MLP = {"layers": 4, "units": 400, "act": "elu", "norm": "none"}
OPT = {"opt": "adam", "eps": 1e-5, "clip": 100.0, "wd": 1e-6}
CODER = {"mlp_keys": ".*", "cnn_keys": ".*", "act": "elu", "norm": "none", "cnn_depth": 48}
NORM = {"momentum": 1.0, "scale": 1.0, "eps": 1e-8}
# DESIGN section 4, spelled out a second time: an edit of configs.yaml must be meant.
EXPECTED = {
    "logdir": "",
    "mode": "train",
    "checkpoint": "",
    "checkpoint_every": "600s",
    "seed": 0,
    "precision": "auto",
    "jit": True,
    "task": "dmc_walker_walk",
    "envs": 1,
    "envs_parallel": "none",
    "env_restarts": 0,
    "env_timeout": 600.0,
    "render_size": (64, 64),
    "dmc_camera": -1,
    "atari_grayscale": True,
    "atari_all_actions": False,
    "time_limit": 0,
    "action_repeat": 1,
    "steps": 10**8,
    "log_every": 10**4,
    "eval_every": 10**5,
    "eval_eps": 1,
    "prefill": 10000,
    "pretrain": 1,
    "train_every": 5,
    "train_steps": 1,
    "expl_until": 0,
    "replay": {
        "capacity": 2 * 10**6,
        "ongoing": False,
        "minlen": 50,
        "maxlen": 50,
        "prioritize_ends": True,
    },
    "dataset": {"batch": 16, "length": 50},
    "log_keys_video": ("image",),
    "log_keys_sum": "^$",
    "log_keys_mean": "^$",
    "log_keys_max": "^$",
    "clip_rewards": "tanh",
    "expl_behavior": "greedy",
    "expl_noise": 0.0,
    "eval_noise": 0.0,
    "eval_state_mean": False,
    "grad_heads": ("decoder", "reward", "discount"),
    "pred_discount": True,
    "rssm": {
        "ensemble": 1,
        "hidden": 1024,
        "deter": 1024,
        "stoch": 32,
        "discrete": 32,
        "act": "elu",
        "norm": "none",
        "std_act": "sigmoid2",
        "min_std": 0.1,
    },
    "encoder": {**CODER, "cnn_kernels": (4, 4, 4, 4), "mlp_layers": (400,) * 4},
    "decoder": {**CODER, "cnn_kernels": (5, 5, 6, 6), "mlp_layers": (400,) * 4},
    "reward_head": {**MLP, "dist": "mse"},
    "discount_head": {**MLP, "dist": "binary"},
    "loss_scales": {"kl": 1.0, "reward": 1.0, "discount": 1.0, "proprio": 1.0},
    "kl": {"free": 0.0, "forward": False, "balance": 0.8, "free_avg": True},
    "model_opt": {**OPT, "lr": 1e-4},
    "actor": {**MLP, "dist": "auto", "min_std": 0.1},
    "critic": {**MLP, "dist": "mse"},
    "actor_opt": {**OPT, "lr": 8e-5},
    "critic_opt": {**OPT, "lr": 2e-4},
    "discount": 0.99,
    "discount_lambda": 0.95,
    "imag_horizon": 15,
    "actor_grad": "auto",
    "actor_grad_mix": 0.1,
    "actor_ent": 2e-3,
    "slow_target": True,
    "slow_target_update": 100,
    "slow_target_fraction": 1.0,
    "slow_baseline": True,
    "reward_norm": NORM,
    "expl_intr_scale": 1.0,
    "expl_extr_scale": 0.0,
    "expl_opt": {**OPT, "lr": 3e-4},
    "expl_head": {**MLP, "dist": "mse"},
    "expl_reward_norm": NORM,
    "disag_target": "stoch",
    "disag_log": False,
    "disag_models": 10,
    "disag_offset": 1,
    "disag_action_cond": True,
    "expl_model_loss": "kl",
}
PIXELS = {
    "encoder.mlp_keys": "$^",
    "encoder.cnn_keys": "image",
    "decoder.mlp_keys": "$^",
    "decoder.cnn_keys": "image",
}
ATARI = {
    **PIXELS,
    "task": "atari_pong",
    "time_limit": 27000,
    "action_repeat": 4,
    "steps": 5 * 10**7,
    "eval_every": 250_000,
    "prefill": 50000,
    "train_every": 16,
    "rssm.hidden": 600,
    "rssm.deter": 600,
    "model_opt.lr": 2e-4,
    "actor_opt.lr": 4e-5,
    "critic_opt.lr": 1e-4,
    "actor_ent": 1e-3,
    "discount": 0.999,
    "loss_scales.kl": 0.1,
    "loss_scales.discount": 5.0,
}
# What differs from the defaults: a value that equals its default (actor_opt.lr) is not here.
DMC = {
    "action_repeat": 2,
    "eval_every": 10000,
    "prefill": 1000,
    "pretrain": 100,
    "clip_rewards": "identity",
    "pred_discount": False,
    "grad_heads": ("decoder", "reward"),
    "replay.prioritize_ends": False,
    "rssm.hidden": 200,
    "rssm.deter": 200,
    "model_opt.lr": 3e-4,
    "critic_opt.lr": 8e-5,
    "actor_ent": 1e-4,
    "kl.free": 1.0,
}
NORMED = "rssm encoder decoder reward_head discount_head actor critic expl_head"
PRESETS = {
    "defaults": {},
    "atari": ATARI,
    "atari_paper": {
        **ATARI,
        "dataset.batch": 50,
        "train_every": 4,
        "discount": 0.995,
        "atari_all_actions": True,
    },
    "crafter": {
        **PIXELS,
        "task": "crafter_reward",
        "discount": 0.999,
        "actor_opt.lr": 1e-4,
        "critic_opt.lr": 1e-4,
        "actor_ent": 3e-3,
        "log_keys_max": "^log_achievement_.*",
        "log_keys_sum": "^log_reward$",
        **{f"{group}.norm": "layer" for group in NORMED.split()},
    },
    "dmc_vision": {**DMC, **PIXELS},
    "dmc_proprio": {**DMC, "encoder.cnn_keys": "$^", "decoder.cnn_keys": "$^"},
    "debug": {
        "jit": False,
        "time_limit": 100,
        "eval_every": 300,
        "log_every": 300,
        "prefill": 100,
        "replay.minlen": 10,
        "replay.maxlen": 30,
        "dataset.batch": 10,
        "dataset.length": 10,
    },
    "vectors": {
        "rssm.discrete": 0,
        "loss_scales.proprio": 100.0,
        "loss_scales.kl": 0.1,
        "loss_scales.discount": 10.0,
        "reward_norm.scale": 0.1,
        "prefill": 1000,
        "train_every": 2,
        "slow_target_update": 25,  # and imag_horizon, back from small's 10 to the default
        "model_opt.lr": 1e-3,
        "critic_opt.lr": 5e-4,
    },
    "no_image_gradients": {"grad_heads": ("reward", "discount")},
    "no_reward_gradients": {"grad_heads": ("decoder", "discount")},
    "no_reinforce": {"actor_grad": "dynamics"},
    "no_kl_balancing": {"kl.balance": 0.5},
    "gaussian_latents": {"rssm.discrete": 0},
}
SUITES = ("defaults", "atari", "atari_paper", "crafter", "dmc_vision", "dmc_proprio")


def test_defaults_are_those_of_the_design():
    expected = Config(EXPECTED)
    assert DEFAULTS == expected, "a default changed its name or value"
    # repr tells 1 from 1.0 and True, which are equal.
    assert repr(sorted(DEFAULTS.flat.items())) == repr(sorted(expected.flat.items()))


@pytest.mark.parametrize("name", PRESETS)
def test_named_config_changes_exactly_this(name):
    before, after = DEFAULTS.flat, DEFAULTS.update(CONFIGS[name]).flat
    changed = {key: value for key, value in after.items() if value != before[key]}
    assert changed == PRESETS[name], f"{name} changes other knobs than documented"


def test_every_named_config_is_listed_here():
    assert set(CONFIGS) == {*PRESETS, "small"}, "a named config without a test"


@pytest.mark.parametrize("suite", SUITES)
def test_small_and_ablations_combine_with_every_suite(suite):
    for name in CONFIGS:
        config = flags.choose(CONFIGS, [suite, name])
        rules.validate(config)
    small = flags.choose(CONFIGS, [suite, "small"])
    assert small.task == flags.choose(CONFIGS, [suite]).task, "small changes the task"
    size = sum(v for k, v in small.flat.items() if re.search("hidden|deter|units", k))
    assert size < sum(v for k, v in DEFAULTS.flat.items() if re.search("hidden|deter|units", k))


def test_merged_keys_can_be_overridden_by_an_earlier_suite():
    assert flags.choose(CONFIGS, ["atari", "atari_paper"]) == flags.choose(CONFIGS, ["atari_paper"])


def test_files_lie_beside_the_package():
    assert package_root().name == "dreamerv2"
    assert configs_path().is_file()
