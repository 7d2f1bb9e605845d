"""Impossible values are refused with a sentence, unusual ones are accepted."""

import re

import pytest

from dreamerv2 import validation
from dreamerv2.common.config import flags
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.paths import load_configs
from dreamerv2.common.errors import UserError

CONFIGS = load_configs()
DEFAULTS = Config(CONFIGS["defaults"])
COMMENTS = flags.option_comments(DEFAULTS.source())
# The world model checks grad_heads: a user's own head is among its heads.
FREE = {"log_keys_video", "expl_intr_scale", "expl_extr_scale", "grad_heads"}


def rules_of(key: str) -> list[validation.Rule]:
    """Return the rules for an option."""
    return [rule for names, rule in validation.RULES.items() if re.fullmatch(names, key)]


def test_every_rule_concerns_an_option():
    for names in validation.RULES:
        for part in re.split(r"\|(?![^(]*\))", names):  # at each | outside of parentheses
            assert any(re.fullmatch(part, key) for key in DEFAULTS.flat), f"{part} checks nothing"


def test_every_number_and_word_has_a_rule():
    numbers_and_words = {k for k, value in DEFAULTS.flat.items() if not isinstance(value, bool)}
    bare = {key for key in numbers_and_words if not rules_of(key)}
    assert bare == FREE, "an option takes impossible values"


@pytest.mark.parametrize("key", [key for key, text in COMMENTS.items() if " | " in text])
def test_comments_name_exactly_the_choices(key):
    about = re.sub(r" \([^)]*\)", "", COMMENTS[key])
    choices = re.search(r"\w+( \| \w+)+", about)[0].split(" | ")
    wanted = rules_of(key)[0]("nothing like this")
    listed = re.search(r"one of ([\w, ]+)", wanted)[1].split(", ")
    # Names of exploration also have the release's spelling, in capitals.
    assert sorted(choices) == sorted(x for x in listed if x in choices or x == x.lower())


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("--dataset.length 0", "it must be at least 2."),
        ("--precision 8", "it must be one of auto, 32"),
        ("--replay.minlen 51", "at most replay.maxlen, 50."),
        ("--replay.capacity 10", "replay.minlen, 50"),
        ("--envs 0", "at least 1"),
        ("--seed -1", "at least 0"),
        ("--mode evl", "Did you mean 'eval'?"),
        ("--imag_horizon 1", "at least 2"),
        ("--discount 1.01", "between 0 and 1"),
        ("--loss_scales.mine -1", "at least 0"),
        ("--expl_behavior plan2explor", "'plan2explore'"),
        ("--rssm.discrete 1", "at least 2, or 0"),
        ("--model_opt.opt adamx", "'adamax'"),
        ("--actor_opt.lr 0", "larger than 0"),
        ("--critic_opt.wd 2", "between 0 and 1"),
        ("--envs_parallel thread", "none, process, since Python threads"),
        ("--disag_offset 50 --expl_behavior Plan2Explore", "dataset.length"),
        ("--encoder.cnn_keys (", "regular expression"),
        ("--log_keys_sum *", "regular expression"),
        ("--render_size 64", "2 values"),
        ("--encoder.cnn_kernels 4 0", "each at least 1"),
        ("--logdir ~nobody-of-that-name/x", "home directory exists"),
        ("--logdir gs://bucket/run", "a directory of this machine, not a URL"),
        ("--time_limit 48", "replay.minlen = 50 rows"),
        ("--checkpoint_every soon", "600s"),
        ("--checkpoint_every 0s", "positive"),
        ("--checkpoint_every 0.5", "1e4 for agent steps"),
        ("--actor_ent -1", "at least 0"),
        ("--actor_grad_mix linear(0,2,100)", "between 0 and 1"),
        ("--actor_ent warmup(100,-1)", "at least 0"),
        ("--task=", "--task '' .* given"),
        ("--checkpoint ~/run", "continues from the newest checkpoint of its own --logdir"),
    ],
)
def test_impossible_values_get_one_sentence(line, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        validation.validate(flags.parse(line.split(), CONFIGS))
    message = str(error.value)
    assert message.startswith(line.split()[0].partition("=")[0] + " ") and "\n" not in message
    assert message.endswith((".", "?"))


@pytest.mark.parametrize(
    "line",
    [
        *[f"--expl_behavior {name}" for name in ("Random", "Plan2Explore", "ModelLoss", "random")],
        "--replay.maxlen 0 --replay.minlen 900",
        "--replay.capacity 0",
        "--expl_extr_scale -1",
        "--actor_ent horizon(10,100,5)",
        "--actor_grad_mix linear(0,1,100)",
        "--grad_heads",
        "--precision fp32",
        "--logdir s3/run",
    ],
)
def test_unusual_values_are_possible(line):
    validation.validate(flags.parse(line.split(), CONFIGS))


# Kernels ----------------------------------------------------------------------------------------


def test_kernels_of_the_default_size_are_the_papers():
    assert validation.encoder_kernels(64) == DEFAULTS.encoder.cnn_kernels
    assert validation.decoder_kernels(64) == DEFAULTS.decoder.cnn_kernels


@pytest.mark.parametrize("size", [4, 10, 32, 45, 48, 84, 96, 128, 210, 256])
def test_default_kernels_adapt_to_the_size_of_images(size):
    config = validation.validate(DEFAULTS.update(render_size=[size, size]))
    pixels, drawn = size, 1
    for kernel in config.encoder.cnn_kernels:
        pixels = (pixels - kernel) // 2 + 1
    for kernel in config.decoder.cnn_kernels:
        drawn = 2 * (drawn - 1) + kernel
    assert 1 <= pixels <= 3 and drawn == size


def test_kernels_that_were_chosen_stay():
    mine = {"encoder.cnn_kernels": [3, 3], "decoder.cnn_kernels": [6, 6], "render_size": [96, 96]}
    config = validation.validate(DEFAULTS.update(mine))
    assert (config.encoder.cnn_kernels, config.decoder.cnn_kernels) == ((3, 3), (6, 6))
