"""Constraints on the values of options, beyond their types: the only place that checks options.

A rule takes a value and returns what the value must be ("at least 1") when it is not, else None.
`validate(config)` runs before anything is built, so that a mistake costs a second and a sentence.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dreamerv2.common.config.config import Config
from dreamerv2.common.config.values import Value, impossible, parse_schedule
from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.run.when import parse_every

Rule = Callable[[Any], str | None]

ACTIVATIONS = "elu relu tanh sigmoid softplus silu swish gelu selu leaky_relu none".split()
EXPLORATION = [
    *("greedy", "random", "plan2explore", "model_loss"),
    *("Greedy", "Random", "Plan2Explore", "ModelLoss"),  # as the 2021 release spells them
]


def must_be(wanted: str, accepts: Callable[[Any], bool]) -> Rule:
    """Return the rule that a test of a value makes, and the words for the possible values."""
    return lambda value: None if accepts(value) else wanted


def at_least(bound: float) -> Rule:
    """Accept numbers from the bound on."""
    return must_be(f"at least {bound}", lambda value: value >= bound)


def one_of(*options: str) -> Rule:
    """Accept one of a few words."""

    def rule(value: str) -> str | None:
        hint = nearest(value, options)
        wanted = f"one of {', '.join(options)}{'.' if hint else ''}{hint}"
        return None if value in options else wanted

    return rule


def _first_problem(rule: Rule, values: Iterable[Value]) -> str | None:
    return next(filter(None, map(rule, values)), None)


def each(rule: Rule, count: int | None = None) -> Rule:
    """Apply a rule to every element of a list, which may need a certain number of them."""

    def check(values: tuple) -> str | None:
        if count is not None and len(values) != count:
            return f"a list of {count} values"
        problem = _first_problem(rule, values)
        return f"a list of values, each {problem}" if problem else None

    return check


def scheduled(rule: Rule, ends: Rule | None = None) -> Rule:
    """Apply a rule to a number, and `ends`, or the same, to both ends of a schedule."""

    def check(value: Value) -> str | None:
        if not isinstance(value, str):
            return rule(value)
        name, arguments = parse_schedule(value)
        values = arguments[1:] if name == "warmup" else arguments[:2]
        # The ends of horizon() are horizons h of a discount 1 - 1/h.
        check_end = at_least(1) if name == "horizon" else ends or rule
        return _first_problem(check_end, values)

    return check


def pattern(value: str) -> str | None:
    """Accept regular expressions."""
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        return f"a regular expression ({error})"
    return None


def interval(value: str) -> str | None:
    """Accept positive times between checkpoints."""
    try:
        fires = parse_every(value)(0)  # an interval of 0 never fires
    except UserError:
        fires = False
    return None if fires else "600s, 10m or 2h, or 1e4 for agent steps, and positive"


def path(value: str) -> str | None:
    """Accept paths of this machine, of which `~name` must be somebody's."""
    if re.match(r"\w+://", value):
        return "a directory of this machine, not a URL: mount a bucket, or copy the run later"
    try:
        Path(value).expanduser()
    except RuntimeError:
        return "a path whose home directory exists"
    return None


def parallel(value: str) -> str | None:
    """Accept the places where environments run; the 2021 release had threads as well."""
    wanted = one_of("none", "process")(value)
    return wanted and wanted + ", since Python threads would wait for each other" * (
        value == "thread"
    )


fraction = must_be("between 0 and 1", lambda value: 0 <= value <= 1)
positive = must_be("larger than 0", lambda value: value > 0)
not_empty = must_be("given", bool)
# A variable with one class holds no information.
classes = must_be("at least 2, or 0 for normal variables", lambda value: value == 0 or value >= 2)

# Names of options, as a regular expression -> rule.
RULES: dict[str, Rule] = {
    "mode": one_of("train", "eval", "dream"),
    "logdir|checkpoint": path,
    "checkpoint_every": interval,
    "precision": one_of("auto", "32", "16", "bfloat16"),
    "task|expl_model_loss": not_empty,
    "envs_parallel": parallel,
    "dmc_camera": at_least(-1),
    "render_size": each(at_least(1), count=2),
    "seed|env_restarts|env_timeout|time_limit|eval_eps|prefill|pretrain|expl_until": at_least(0),
    "envs|action_repeat|steps|log_every|eval_every|train_every|train_steps": at_least(1),
    r"replay\.(capacity|maxlen)": at_least(0),
    r"replay\.minlen|dataset\.batch": at_least(1),
    r"dataset\.length": at_least(2),  # the report shows the model a part and asks for the rest
    "log_keys_(sum|mean|max)|.*coder.(mlp|cnn)_keys": pattern,
    "clip_rewards": one_of("identity", "sign", "tanh"),
    "expl_behavior": one_of(*EXPLORATION),
    r"rssm\.discrete": classes,
    r"rssm\.std_act": one_of("sigmoid2", "sigmoid", "softplus"),
    r".*\.act": one_of(*ACTIVATIONS),
    r".*\.norm": one_of("none", "layer"),
    r"rssm\.(ensemble|hidden|deter|stoch)|.*\.(cnn_depth|units)": at_least(1),
    r".*\.(cnn_kernels|mlp_layers)": each(at_least(1)),
    r"reward_head\.dist|discount_head\.dist": one_of("mse", "binary"),
    r"(critic|expl_head)\.dist": one_of("mse"),
    r"actor\.dist": one_of("auto", "onehot", "normal", "tanh_normal", "trunc_normal"),
    r".*_opt\.opt": one_of("adam", "nadam", "adamax", "sgd", "momentum"),
    r".*_opt\.lr": scheduled(positive, at_least(0)),
    r".*_opt\.eps": positive,
    r".*_opt\.wd|kl\.balance|discount|discount_lambda|slow_target_fraction": fraction,
    r".*reward_norm\.momentum": fraction,
    r".*\.(layers|min_std)|.*_opt\.clip|.*reward_norm\.(scale|eps)": at_least(0),
    r"loss_scales\..*|kl\.free|(expl|eval)_noise|disag_offset": at_least(0),
    "imag_horizon": at_least(2),  # the actor's loss pairs a state with the one after the next
    "actor_grad": one_of("auto", "reinforce", "dynamics", "both"),
    "actor_grad_mix": scheduled(fraction),
    "actor_ent": scheduled(at_least(0)),
    "slow_target_update": at_least(1),
    "disag_target": one_of("embed", "stoch", "deter", "feat"),
    "disag_models": at_least(2),  # one model never disagrees with itself
}


def validate(config: Config) -> Config:
    """Check every value of a config, and the values that must fit each other.

    An empty `logdir` passes: whether a run needs one is for its caller to say.

    Returns: the config, with kernels that fit --render_size where they were left at the defaults.

    Raises:
        UserError: the first impossible value, and the possible ones.
    """
    for names, rule in RULES.items():
        for key, value in config.flat.items():
            if re.fullmatch(names, key) and (wanted := rule(value)):
                raise impossible(key, value, f"it must be {wanted}")
    _check_combinations(config)
    if config.mode == "train" and config.checkpoint:
        raise UserError(
            "--checkpoint is for --mode eval and dream: a training continues from the newest "
            "checkpoint of its own --logdir."
        )
    return _fit_kernels(config)


def _check_combinations(config: Config) -> None:
    """Refuse values that do not fit those of other options."""
    replay, length = config.replay, config.dataset.length  # 0 steps mean no limit
    minlen, maxlen = replay.minlen, replay.maxlen
    if 0 < maxlen < minlen:
        raise impossible("replay.minlen", minlen, f"it must be at most replay.maxlen, {maxlen}")
    if 0 < replay.capacity < minlen:
        reason = f"it must be at least replay.minlen, {minlen}, or 0 for no limit"
        raise impossible("replay.capacity", replay.capacity, reason)
    if config.mode == "train" and 0 < config.time_limit < minlen - 1:
        reason = f"episodes must have at least replay.minlen = {minlen} rows, one more than steps"
        raise impossible("time_limit", config.time_limit, f"{reason}, to learn from")
    if config.expl_behavior.lower() == "plan2explore" and config.disag_offset >= length:
        reason = f"it must be smaller than dataset.length, {length}"
        raise impossible("disag_offset", config.disag_offset, reason)


def _fit_kernels(config: Config) -> Config:
    """Choose kernels for the size of images, where they were left at those of 64 x 64."""
    smaller, larger = sorted(config.render_size)
    fitting = {
        "encoder.cnn_kernels": (encoder_kernels(64), encoder_kernels(smaller)),
        "decoder.cnn_kernels": (decoder_kernels(64), decoder_kernels(larger)),
    }
    return config.update({k: new for k, (old, new) in fitting.items() if config[k] == old and new})


def encoder_kernels(size: int) -> tuple[int, ...]:
    """Return as many 4x4 kernels (stride 2, VALID) as leave at least one of `size` pixels."""
    count = 0
    while size >= 4:
        size, count = size // 2 - 1, count + 1
    return (4,) * count


def decoder_kernels(size: int) -> tuple[int, ...]:
    """Return kernels of transposed convolutions that grow one pixel to exactly `size` pixels.

    n layers with kernels k_i and stride 2 draw 2^n + sum_i 2^(n-i) (k_i - 2) pixels. Each layer
    takes its even share of the pixels that are missing: 64 gives the paper's 5, 5, 6, 6.
    """
    count = len(encoder_kernels(size))
    missing, kernels = size - 2**count, []
    for weight in [2**i for i in reversed(range(count))]:
        share = missing // (2 * weight - 1)
        missing -= weight * share
        kernels.append(share + 2)
    return tuple(kernels)
