"""The trained agent in scores/pretrained plays, dreams and is a policy, also out of a wheel."""

import json

import pytest
from sources import ROOT

import dreamerv2.api as dv2
from dreamerv2.train import main

PONG = "scores/pretrained/atari_pong_small"


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


def test_it_dreams(home):
    main(["--mode", "dream", "--checkpoint", PONG])
    assert len(list(home.glob("videos/dream_*.gif"))) == 2


def test_its_files_are_small_and_nothing_is_left_beside_them(home):
    files = [path for path in (ROOT / PONG).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    assert {path.name for path in (ROOT / PONG).iterdir()} == {
        *("config.yaml", "spaces.json", "checkpoints", "eval_episodes")
    }


@pytest.mark.slow
def test_it_plays_better_than_chance(home):
    dv2.load(PONG)
    main(["--mode", "eval", "--checkpoint", PONG, "--eval_eps", "3"])
    summary = json.loads((home / "eval.jsonl").read_text().splitlines()[-1])
    assert summary["mean"] > -19, "docs/learning.md says -13, random play scores -20.7"
