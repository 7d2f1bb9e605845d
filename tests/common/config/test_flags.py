"""Flags: what a user types becomes a Config or one clear sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dreamerv2.common.config import flags
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.paths import KINDS, load_configs
from dreamerv2.common.errors import UserError

CONFIGS = load_configs()
DEFAULTS = Config(CONFIGS["defaults"])
ROOT = Path(__file__).parents[3]


def parse(line: str) -> Config:
    return flags.parse(line.split(), CONFIGS)


# Named configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "--logdir X --configs defaults atari --task atari_qbert",
        "--configs atari --logdir X --task atari_qbert",
        "--task atari_qbert --configs atari --logdir X",
        "--task=atari_qbert --configs=atari --logdir=X",
        "--task atari_qbert --logdir X --configs atari defaults",
        "--configs defaults --task atari_qbert --configs atari --logdir X",
    ],
)
def test_flags_come_in_any_order(line):
    expected = DEFAULTS.update(CONFIGS["atari"]).update(logdir="X", task="atari_qbert")
    assert parse(line) == expected


def test_named_configs_apply_in_order_and_flags_after_them():
    assert parse("") == DEFAULTS
    assert parse("--configs atari debug").time_limit == 100
    assert parse("--configs debug atari").time_limit == 27000
    assert parse("--time_limit 7 --configs atari").time_limit == 7


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, key, value",
    [
        ("--steps 1e4", "steps", 10000),
        ("--jit False", "jit", False),
        ("--jit=true", "jit", True),
        ("--precision 32", "precision", "32"),
        ("--dmc_camera -1", "dmc_camera", -1),
        ("--model_opt.lr 3e-4", "model_opt.lr", 3e-4),
        ("--encoder.cnn_kernels 1 2 3", "encoder.cnn_kernels", (1, 2, 3)),
        ("--encoder.cnn_kernels=1 2", "encoder.cnn_kernels", (1, 2)),
        ("--log_keys_video", "log_keys_video", ()),
        ("--log_keys_video a", "log_keys_video", ("a",)),
        ("--grad_heads decoder reward --seed 1", "grad_heads", ("decoder", "reward")),
        ("--logdir=", "logdir", ""),
        ("--logdir=a=b", "logdir", "a=b"),
        ("--logdir=--odd", "logdir", "--odd"),
        ("--seed 1 --seed 2", "seed", 2),
        ("--actor_ent linear(1,0,1e6)", "actor_ent", "linear(1,0,1e6)"),
        ("--loss_scales.proprio 2", "loss_scales.proprio", 2.0),
    ],
)
def test_values_take_the_type_of_the_option(line, key, value):
    result = parse(line)[key]
    assert (type(result), result) == (type(value), value)


def test_regex_flags_change_all_matches():
    config = parse(r"--.*\.norm layer --.*\.(mlp_layers|cnn_kernels) 3 3")
    assert {v for k, v in config.flat.items() if k.endswith(".norm")} == {"layer"}
    assert config.encoder.mlp_layers == config.decoder.cnn_kernels == (3, 3)


@pytest.mark.parametrize(
    "line, words",
    [
        ("--configs atry", "'atry' 'atari' dmc_vision"),
        ("--configs xyz", "'xyz' defaults, atari small"),
        ("--configs", "--configs names"),
        ("--rssm.hiden 3", "'rssm.hiden' 'rssm.hidden'"),
        ("--task_ x", "'task'"),
        ("--envs two", "--envs two integer"),
        ("--jit 1", "--jit 1 True False"),
        ("--jit", "--jit needs value"),
        ("--steps 5 6", "--steps one value"),
        ("junk", "'junk'"),
        ("junk --seed 1", "'junk'"),
        ("-seed 1", "'-seed'"),
        ("--", "'--'"),
        ("--=3", "''"),
        ("--encoder.cnn_kernels 1 x", "--encoder.cnn_kernels x integer"),
        ("--logdir \udcff", "--logdir text"),
    ],
)
def test_mistakes_get_one_sentence(line, words):
    with pytest.raises(UserError) as error:
        parse(line)
    message = str(error.value)
    assert all(word in message for word in words.split(" ")), message
    assert "\n" not in message


TOKENS = st.one_of(
    st.sampled_from(
        ["--configs", "--seed", "--rssm.hidden", "--jit", "--grad_heads", "--loss_scales.x", "--"]
        + r"--.*\.norm --( --.* --[ --a{99999999999} --seed= --= -1 --rssm".split()
        + ["--actor_ent", "linear(1,2,3)", "linear(,,)", "atari", "debug", "1e4", "1e999", "nan"]
        + ["True", "", " ", "\udcff", "\x00", "9" * 5000, "١", "1_0", "decoder", "--help_", "0x1"]
    ),
    st.text(max_size=5),
    st.text(max_size=5).map("--".__add__),
)


@given(argv=st.lists(TOKENS, max_size=6))
def test_any_flags_are_a_config_or_a_sentence(argv):
    assume(not {"-h", "--help"} & set(argv))
    for attempt in (lambda: flags.parse(argv, CONFIGS), lambda: DEFAULTS.parse_flags(argv)):
        try:
            assert isinstance(attempt(), Config)
        except UserError as error:
            assert str(error)


@given(key=st.sampled_from(sorted(DEFAULTS.flat)), value=TOKENS)
def test_any_value_of_any_option_is_a_config_or_a_sentence(key, value):
    try:
        config = flags.parse([f"--{key}={value}"], CONFIGS)
    except UserError as error:
        assert key in str(error)
    else:
        kinds = {type(DEFAULTS[key])} | ({str} if key in KINDS else set())
        assert type(config[key]) in kinds, "a flag changed an option's type"


# Scripts and notebooks --------------------------------------------------------------------------

SCRIPT = """
import dreamerv2.api as dv2
print(dv2.defaults.update({"logdir": "X"}).parse_flags().flat)
"""


def test_a_script_takes_flags_and_ends_with_one_sentence(tmp_path):
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return ran.returncode, ran.stdout + ran.stderr

    assert run("--kl.free", "3") == (0, f"{DEFAULTS.update({'logdir': 'X', 'kl.free': 3}).flat}\n")
    sentence = "Error: There is no option 'kl.fre'. Did you mean 'kl.free'?\n"
    assert run("--kl.fre", "3") == (2, sentence)


@pytest.mark.parametrize("name", ["ipykernel_launcher.py", "ipykernel/__main__.py"])
def test_notebooks_have_no_flags(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "-f", "kernel-1.json"])
    assert DEFAULTS.parse_flags() == DEFAULTS


def test_named_configs_are_refused_where_there_are_none():
    with pytest.raises(UserError, match=r"a flag of train.py.*dv2.defaults.update\(dv2.configs"):
        DEFAULTS.parse_flags(["--configs", "atari"])


# Help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--help", "-h", "--configs atari --help", "--envs two --help"])
def test_help_shows_every_option_and_named_config(line, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(line)
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for key in DEFAULTS.flat:
        assert f"\n  --{key} " in shown, f"--help does not mention {key}"
    for name in set(CONFIGS) - {"defaults"}:
        assert f"\n  {name}: " in shown, f"--help misses {name}"
    assert "kl.balance 0.5" in shown and r".*\.norm layer" in shown
    assert re.search("--imag_horizon 15 +.*agent steps", shown), "value and comment are missing"
    assert "linear(from,to,steps)" in shown, "the top of configs.yaml is missing"
    assert max(map(len, shown.splitlines())) <= 100, "lines wrap in a terminal"


def test_every_option_and_named_config_has_a_comment():
    comments = flags.option_comments(DEFAULTS.source())
    bare = [key for key in DEFAULTS.flat if len(comments.get(key, "")) < 8]
    assert not bare, "options without a meaning or unit in configs.yaml"
    names = set(CONFIGS) - {"defaults"}
    assert all(flags.config_comment(DEFAULTS.source(), name).endswith(".") for name in names)
