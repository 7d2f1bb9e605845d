"""The package's own files, in a checkout and in an installed wheel, and the options they define."""

import functools
from collections.abc import Mapping
from pathlib import Path

from dreamerv2.common.config import values
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.yaml import read_yaml

PRECISIONS = {"float32": "32", "fp32": "32", "float16": "16", "fp16": "16", "bf16": "bfloat16"}
# Options of configs.yaml whose type is not that of their default.
KINDS = {
    "actor_ent": values.number_or_schedule,
    "actor_grad_mix": values.number_or_schedule,
    **{f"{x}_opt.lr": values.number_or_schedule for x in ("model", "actor", "critic", "expl")},
    "checkpoint_every": values.text_or_number,
    "precision": functools.partial(values.text_or_number, synonyms=PRECISIONS),
    "loss_scales.*": functools.partial(values.convert, kind=float),
}


def package_root() -> Path:
    """Return the directory of the package `dreamerv2`.

    Links are not followed: in a checkout this file is reached through the link dreamerv2/common,
    beside which the other links (configs.yaml, scores, ...) lie.
    """
    return Path(__file__).absolute().parents[2]


def load_configs() -> dict[str, Mapping]:
    """Read configs.yaml: name -> changes as a nested dict; `defaults` is a Config."""
    path = package_root() / "configs.yaml"
    configs = read_yaml(path)
    return {**configs, "defaults": Config(configs["defaults"], KINDS, path)}
