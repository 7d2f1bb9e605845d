"""The trained agents in scores/pretrained play, dream and are policies, also out of a wheel."""

import json

import pytest
from sources import ROOT

import dreamerv2.api as dv2
from dreamerv2.train import main

PONG, BOXING = AGENTS = [f"scores/pretrained/atari_{game}_small" for game in ("pong", "boxing")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home directory of a user who has no checkout: results go below it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "logdir/atari_pong_small"


def test_it_plays_and_the_video_is_in_the_home_directory(home, capsys):
    main(["--mode", "eval", "--checkpoint", PONG, "--eval_eps", "1", "--time_limit", "60"])
    assert "Episode 1: return" in capsys.readouterr().out
    assert len((home / "eval.jsonl").read_text().splitlines()) == 2
    assert list(home.glob("videos/eval_*.gif")), "there is no video"


@pytest.mark.parametrize("agent", AGENTS)
def test_it_dreams(home, agent):
    main(["--mode", "dream", "--checkpoint", agent])
    assert len(list(home.parent.glob("*/videos/dream_*.gif"))) == 2


@pytest.mark.parametrize("agent", AGENTS)
def test_its_files_are_small_and_nothing_is_left_beside_them(home, agent):
    files = [path for path in (ROOT / agent).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    assert {path.name for path in (ROOT / agent).iterdir()} == {
        *("config.yaml", "spaces.json", "checkpoints", "eval_episodes")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "least"), [(PONG, -19), (BOXING, 12.1)])
def test_it_plays_better_than_chance(home, agent, least):
    """docs/learning.md says -13 and 52; random play scores -20.7 and 0.1, a human 12.1."""
    dv2.load(agent)
    main(["--mode", "eval", "--checkpoint", agent, "--eval_eps", "3"])
    written = home.with_name(agent.split("/")[-1]) / "eval.jsonl"
    assert json.loads(written.read_text().splitlines()[-1])["mean"] > least
