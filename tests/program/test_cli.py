"""What the command line answers before anything is trained: help, and mistakes in one sentence."""

import resource

import pytest
from commandline import TINY, finish, run_here, start

PONG = ["--configs", "atari", "debug", "--task", "atari_pong"]

# What the user types -> what the answer must contain. LOGDIR is a directory that does not exist.
MISTAKES = {
    "unknown config": (["--configs", "atari", "debgu"], ["'debgu'", "'debug'"]),
    "misspelt key": (["--rssm.hiden", "3"], ["'rssm.hiden'", "'rssm.hidden'"]),
    "wrong type": (["--envs", "two"], ["envs", "two", "integer"]),
    "unknown precision": (["--precision", "8"], ["precision", "8", "auto, 32, 16, bfloat16"]),
    "a word alone": (["atari"], ["'atari'", "stands alone"]),
    "unknown game": (["--task", "atari_pogn"], ["'pogn'", "'pong'"]),
    "unknown suite": (["--task", "nintendo_mario"], ["atari, crafter, dmc, gym, minigrid"]),
    "no task": (["--task", "atari"], ["'atari'", "name after the suite"]),
    "unknown gym environment": (["--task", "gym_CartPool-v1"], ["CartPool-v1", "CartPole-v1"]),
}


@pytest.fixture(scope="module")
def no_tensorflow(tmp_path_factory):
    """A directory for PYTHONPATH with a `tensorflow` that ends the process which imports it."""
    folder = tmp_path_factory.mktemp("no_tensorflow")
    (folder / "tensorflow.py").write_text(
        "import os\nprint('imported', flush=True)\nos._exit(99)\n"
    )
    return str(folder)


def check_sentence(status, error, *contents):
    """Assert that a command ended with one sentence on standard error that holds the contents."""
    lines = error.splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith("Error: "), error
    assert lines[0].endswith((".", "?")), "no sentence"
    for content in contents:
        assert content in lines[0]


def check_mistake(capsys, *arguments, contents):
    """Run a command here, which must end with one sentence that holds the contents."""
    with pytest.raises(SystemExit) as ended:
        run_here(*arguments)
    printed = capsys.readouterr()
    assert printed.out == "", "a refusal comes before anything is printed"
    check_sentence(ended.value.code, printed.err, *contents)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(mistake, tmp_path, monkeypatch, capsys):
    arguments, contents = MISTAKES[mistake]
    command = [*arguments, "--logdir", "logdir"] if arguments != ["atari"] else arguments
    monkeypatch.chdir(tmp_path)
    check_mistake(capsys, *command, contents=contents)
    assert list(tmp_path.iterdir()) == [], "something was created"


def test_a_missing_logdir_is_asked_for(tmp_path, no_tensorflow):
    result = finish(start(*PONG, cwd=tmp_path, PYTHONPATH=no_tensorflow))
    check_sentence(result.returncode, result.stderr, "--logdir")
    assert result.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("logdir", ["file", "file/below"])
def test_an_unwritable_logdir_is_named(logdir, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    check_mistake(capsys, *PONG, "--logdir", tmp_path / logdir, contents=[logdir])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_config_file_is_named(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: [1\n")
    check_mistake(capsys, *PONG, "--logdir", tmp_path, contents=["config.yaml"])


@pytest.mark.parametrize(
    ("flags", "contents"),
    [
        ("--loss_scales.spede 2", ["--loss_scales.spede scales nothing", "kl"]),
        ("--encoder.mlp_keys ^$", ["encoder.mlp_keys", "match none"]),
    ],
)
def test_a_mistake_that_the_spaces_show_is_told_first(flags, contents, tmp_path, capsys):
    command = ["--task", "gym_CartPole-v1", *TINY, *flags.split(), "--logdir", tmp_path / "run"]
    check_mistake(capsys, *command, contents=contents)


def test_help_is_quick(tmp_path, no_tensorflow):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = finish(start("--help", cwd=tmp_path, PYTHONPATH=no_tensorflow))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, because other processes may keep this one waiting.
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert result.returncode == 0 and result.stderr == "" and list(tmp_path.iterdir()) == []
    assert took < 2, f"--help took {took:.1f} s"
    assert "\n  --logdir " in result.stdout
