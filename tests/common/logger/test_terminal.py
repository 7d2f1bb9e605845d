"""Lines of metrics and progress bars on terminals, in pipes and in files."""

import os
import pty
import select
import sys

import tqdm
from logs import Terminal, scalars

from dreamerv2.common.logger import terminal
from dreamerv2.common.logger.logger import Entry
from dreamerv2.common.logger.terminal import EpisodeProgress, Progress, TerminalOutput


def test_plain_output_is_one_line_a_write(capsys):
    output = TerminalOutput()
    output.write(8000, scalars(**{f"metric_{i}": i / 7 for i in range(40)}))
    output.write(8004, scalars(train_return=-21.0, n=3, bad=float("nan"), huge=1e20))
    output.write(8008, [Entry("text", "config", "only text")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[8000] metric_0 0 / metric_1 0.1429 / ")
    assert second == "[8004] train_return -21 / n 3 / bad nan / huge 1e+20"


def test_lines_and_bars_do_not_mix_on_a_terminal(monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with tqdm.tqdm(total=10, file=stream, mininterval=0, ncols=60, nrows=9) as bar:
            bar.update(3)
            TerminalOutput().write(12, scalars(train_return=5.5))
            bar.update(1)
        shown = ""
        while select.select([leader], [], [], 0.5)[0]:
            shown += os.read(leader, 100_000).decode()
    os.close(leader)
    rows = [row.rstrip("\r").split("\r")[-1] for row in shown.split("\n")]
    assert "[12] train_return 5.5" in rows, "the line must stand on a row of its own"
    assert "4/10" in shown.split("train_return 5.5")[1], "the bar must come back below it"


def test_long_line_is_wrapped_to_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    TerminalOutput().write(4, scalars(**{f"metric_{i}": i for i in range(20)}))
    rows = stream.getvalue().splitlines()
    assert len(rows) > 3 and max(map(len, rows)) <= 60
    assert " ".join(" ".join(rows).split()).count("metric_") == 20


def test_a_bar_is_not_drawn_at_every_step(monkeypatch):
    """50 million steps would be 6 GB on a terminal that is recorded."""

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("Training", 10_000) as bar:
        for step in range(5000):
            bar.update(1)
            bar.show(train_return=step)
    shown = sys.stderr.getvalue()
    assert "Training" in shown and len(shown) < 50_000, f"{len(shown)} bytes for 5,000 steps"


def play(progress, *lengths):
    """Hand on the rows of episodes with so many steps, one after another."""
    for length in lengths:
        for t in range(length + 1):
            progress({"is_first": t == 0, "is_last": t == length}, 0)


def test_evaluation_that_goes_on_shows_its_steps_and_one_warning(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "REPORT_SECONDS", 0)
    monkeypatch.setattr(terminal, "LONG_EPISODE", 20)
    with EpisodeProgress("Evaluation", 3) as progress:
        play(progress, 4, 30, 25)
    shown = capsys.readouterr().out
    assert "Evaluation: 3 episodes\n" in shown and "Evaluation: 3 episodes in " in shown
    assert "Evaluation: 1 of 3 episodes, 15 steps\n" in shown
    assert shown.count("No episode has ended in 20 steps") == 1 and "--time_limit" in shown
