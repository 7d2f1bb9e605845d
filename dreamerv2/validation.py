"""Constraints on the values of options, beyond their types: the only place that checks options.

A rule takes a value and returns what the value must be ("at least 1") when it is not, else None.
`validate(config)` runs before anything is built, so that a mistake costs a second and a sentence.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dreamerv2.common.config.config import Config
from dreamerv2.common.config.values import Value, parse_schedule, show
from dreamerv2.common.errors import UserError, nearest
from dreamerv2.common.run.when import parse_every

Rule = Callable[[Value], str | None]

ACTIVATIONS = (
    *("elu", "relu", "tanh", "sigmoid", "softplus"),
    *("silu", "swish", "gelu", "selu", "leaky_relu", "none"),
)
EXPLORATION = (
    *("greedy", "random", "plan2explore", "model_loss"),
    *("Greedy", "Random", "Plan2Explore", "ModelLoss"),  # as the 2021 release spells them
)


def at_least(bound: float) -> Rule:
    """Accept numbers from the bound on."""
    return lambda value: None if value >= bound else f"at least {bound}"


def between(low: float, high: float) -> Rule:
    """Accept numbers of a closed interval."""
    return lambda value: None if low <= value <= high else f"between {low} and {high}"


def positive(value: Value) -> str | None:
    """Accept numbers larger than 0."""
    return None if value > 0 else "larger than 0"


def one_of(*options: str) -> Rule:
    """Accept one of a few words."""

    def rule(value: Value) -> str | None:
        wanted = f"one of {', '.join(options)}"
        hint = nearest(str(value), options)
        return None if value in options else f"{wanted}.{hint}" if hint else wanted

    return rule


def each(rule: Rule, count: int | None = None) -> Rule:
    """Apply a rule to every element of a list, which may need a certain number of them."""

    def check(value: Value) -> str | None:
        if count is not None and len(value) != count:
            return f"a list of {count} values"
        problem = next(filter(None, map(rule, value)), None)
        return f"a list of values, each {problem}" if problem else None

    return check


def scheduled(rule: Rule) -> Rule:
    """Apply a rule to a number, or to the values between which a schedule moves."""

    def check(value: Value) -> str | None:
        if not isinstance(value, str):
            return rule(value)
        name, arguments = parse_schedule(value)
        ends = arguments[1:] if name == "warmup" else arguments[:2]
        # The ends of horizon() are horizons h of a discount 1 - 1/h.
        return next(filter(None, map(at_least(1) if name == "horizon" else rule, ends)), None)

    return check


def pattern(value: Value) -> str | None:
    """Accept regular expressions."""
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        return f"a regular expression ({error})"
    return None


def interval(value: Value) -> str | None:
    """Accept positive times between checkpoints."""
    try:
        fires = parse_every(value)(0)  # an interval of 0 never fires
    except UserError:
        fires = False
    return None if fires else "600s, 10m or 2h, or 1e4 for agent steps, and positive"


def path(value: Value) -> str | None:
    """Accept paths of this machine, of which `~name` must be somebody's."""
    if re.match(r"\w+://", value):
        return "a directory of this machine, not a URL: mount a bucket, or copy the run later"
    try:
        Path(value).expanduser()
    except RuntimeError:
        return "a path whose home directory exists"
    return None


def classes(value: Value) -> str | None:
    """Accept numbers of classes; a variable with one class holds no information."""
    return None if value == 0 or value >= 2 else "at least 2, or 0 for normal variables"


def parallel(value: Value) -> str | None:
    """Accept the places where environments run; the 2021 release had threads as well."""
    wanted = one_of("none", "process")(value)
    reason = ", since Python threads would wait for each other" * (value == "thread")
    return wanted and wanted + reason


def not_empty(value: Value) -> str | None:
    """Accept text and lists with something in them."""
    return None if value else "given"


RULES: dict[str, Rule] = {
    "mode": one_of("train", "eval", "dream"),
    "logdir|checkpoint": path,
    "checkpoint_every": interval,
    "precision": one_of("auto", "32", "16", "bfloat16"),
    "task": not_empty,
    "envs_parallel": parallel,
    "dmc_camera": at_least(-1),
    "render_size": each(at_least(1), count=2),
    "seed|env_restarts|env_timeout|time_limit|eval_eps|prefill|pretrain|expl_until": at_least(0),
    "envs|action_repeat|steps|log_every|eval_every|train_every|train_steps": at_least(1),
    r"replay\.capacity|replay\.maxlen": at_least(0),
    r"replay\.minlen|dataset\.batch": at_least(1),
    r"dataset\.length": at_least(2),  # the report shows the model a part and asks for the rest
    "log_keys_(sum|mean|max)|.*coder.(mlp|cnn)_keys": pattern,
    "clip_rewards": one_of("identity", "sign", "tanh"),
    "expl_behavior": one_of(*EXPLORATION),
    "expl_noise|eval_noise": at_least(0),
    r"rssm\.(ensemble|hidden|deter|stoch)": at_least(1),
    r"rssm\.discrete": classes,
    r"rssm\.std_act": one_of("sigmoid2", "sigmoid", "softplus"),
    r".*\.min_std": at_least(0),
    r".*\.act": one_of(*ACTIVATIONS),
    r".*\.norm": one_of("none", "layer"),
    r".*\.(cnn_depth|units)": at_least(1),
    r".*\.layers": at_least(0),
    r".*\.(cnn_kernels|mlp_layers)": each(at_least(1)),
    r"reward_head\.dist|discount_head\.dist": one_of("mse", "binary"),
    r"(critic|expl_head)\.dist": one_of("mse"),
    r"actor\.dist": one_of("auto", "onehot", "normal", "tanh_normal", "trunc_normal"),
    r"loss_scales\..*|kl\.free": at_least(0),
    r"kl\.balance": between(0, 1),
    r".*_opt\.opt": one_of("adam", "nadam", "adamax", "sgd", "momentum"),
    r".*_opt\.(lr|eps)": positive,
    r".*_opt\.clip": at_least(0),
    r".*_opt\.wd": between(0, 1),
    "discount|discount_lambda": between(0, 1),
    "imag_horizon": at_least(2),  # the actor's loss pairs a state with the one after the next
    "actor_grad": one_of("auto", "reinforce", "dynamics", "both"),
    "actor_grad_mix": scheduled(between(0, 1)),
    "actor_ent": scheduled(at_least(0)),
    "slow_target_update": at_least(1),
    "slow_target_fraction": between(0, 1),
    r".*reward_norm\.momentum": between(0, 1),
    r".*reward_norm\.(scale|eps)": at_least(0),
    "disag_target": one_of("embed", "stoch", "deter", "feat"),
    "disag_models": at_least(2),  # one model never disagrees with itself
    "disag_offset": at_least(0),
    "expl_model_loss": not_empty,
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
            wanted = rule(value) if re.fullmatch(names, key) else None
            if wanted:
                stop = "" if wanted.endswith("?") else "."
                raise UserError(f"--{key} {show(value)} is not possible: it must be {wanted}{stop}")
    for key, is_wrong, reason in _combinations(config):
        if is_wrong:
            raise UserError(f"--{key} {show(config[key])} is not possible: {reason}.")
    if config.mode == "train" and config.checkpoint:
        raise UserError(
            "--checkpoint is for --mode eval and dream: a training continues from the newest "
            "checkpoint of its own --logdir."
        )
    return _fit_kernels(config)


def check_keys(encoder: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse patterns of the encoder that match no observation; shapes by key."""
    cnn, mlp = encoder.cnn_keys, encoder.mlp_keys
    if not any(re.match(cnn if len(shape) == 3 else mlp, key) for key, shape in shapes.items()):
        raise UserError(
            f"No observation is left for the encoder: --encoder.cnn_keys '{cnn}' and "
            f"--encoder.mlp_keys '{mlp}' match none of {', '.join(shapes)}."
        )


def _combinations(config: Config) -> list[tuple[str, bool, str]]:
    """List (option, whether its value does not fit those of other options, the reason)."""
    replay, length = config.replay, config.dataset.length  # 0 steps mean no limit
    return [
        (
            "replay.minlen",
            0 < replay.maxlen < replay.minlen,
            f"it must be at most replay.maxlen, {replay.maxlen}",
        ),
        (
            "replay.capacity",
            0 < replay.capacity < replay.minlen,
            f"it must be at least replay.minlen, {replay.minlen}, or 0 for no limit",
        ),
        (
            "time_limit",
            config.mode == "train" and 0 < config.time_limit < replay.minlen - 1,
            f"episodes must have at least replay.minlen = {replay.minlen} rows, one more than "
            "steps, to learn from",
        ),
        (
            "disag_offset",
            config.expl_behavior.lower() == "plan2explore" and config.disag_offset >= length,
            f"it must be smaller than dataset.length, {length}",
        ),
    ]


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
