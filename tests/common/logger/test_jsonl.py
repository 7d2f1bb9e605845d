"""metrics.jsonl holds one whole line a step, after repair and after a kill as well."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pandas as pd
import pytest
from logs import scalars

from dreamerv2.common.errors import UserError
from dreamerv2.common.logger.jsonl import JSONLOutput
from dreamerv2.common.logger.logger import Entry


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_begin_with_the_step_and_pandas_reads_them(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(4, scalars(loss=1.5, count=3) + [Entry("text", "config", "a: 1")])
    assert lines(tmp_path) == [{"step": 4, "loss": 1.5, "count": 3}], "on file at once"
    output.write(8, scalars(loss=float("nan"), big=float("inf")))
    output.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 4, "loss": 1.5, "count": 3}\n{"step": 8, "loss": null, "big": null}\n'
    frame = pd.read_json(tmp_path / "metrics.jsonl", lines=True)
    assert frame.loss.isna().tolist() == [False, True]


def test_one_line_a_step_with_the_mean_of_repeated_metrics(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(4, scalars(loss=0.123456789))
    output.write(8, scalars(eval_return=1) + scalars(eval_return=2))
    output.write(8, scalars(eval_return=6, eval_length=10))
    output.write(12, scalars(eval_return=5))
    assert lines(tmp_path) == [
        {"step": 4, "loss": 0.123456789},
        {"step": 8, "eval_return": 3.0, "eval_length": 10},
        {"step": 12, "eval_return": 5},
    ]


def test_line_that_gets_shorter_leaves_no_remains(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(4, scalars(x=0.1234567890123))
    output.write(4, scalars(x=float("nan")))
    assert lines(tmp_path) == [{"step": 4, "x": None}]
    output.write(5, scalars(x=1))
    assert lines(tmp_path) == [{"step": 4, "x": None}, {"step": 5, "x": 1}]


def test_resumed_file_continues_and_merges_its_last_step(tmp_path):
    first = JSONLOutput(tmp_path)
    first.write(4, scalars(a=1))
    first.write(8, scalars(a=2, b=5))
    first.close()
    second = JSONLOutput(tmp_path, start_step=8)
    second.write(8, scalars(c=7))
    second.write(12, scalars(a=3))
    assert lines(tmp_path) == [
        {"step": 4, "a": 1},
        {"step": 8, "a": 2, "b": 5, "c": 7},
        {"step": 12, "a": 3},
    ]


def test_lines_after_the_checkpoint_are_cut(tmp_path, capsys):
    first = JSONLOutput(tmp_path)
    for step in range(0, 50, 10):
        first.write(step, scalars(a=step))
    first.close()
    JSONLOutput(tmp_path, start_step=20).close()
    assert [x["step"] for x in lines(tmp_path)] == [0, 10, 20]
    assert "2 line(s) after step 20 cut" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 9, "a": 1', b"\0" * 50 + b"\n", b"[1, 2]\n", b'{"a": 3}\n', b"\xff\n", b"\n",
     b'{"step": "9"}\n', b'{"step": -1, "a": 2}\n', b"[" * 100_000 + b"\n"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["middle", "end"])
def test_damaged_lines_are_dropped_and_the_others_kept(tmp_path, damage, place, capsys):
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": 4, "a": 1.50}\n', b'{"step": 8, "a": 2}\n']
    if place == "middle":
        path.write_bytes(good[0] + damage.rstrip(b"\n") + b"\n" + good[1])
        path.write_bytes(path.read_bytes().replace(b': 1\n{"step": 8', b': }\n{"step": 8'))
    else:
        path.write_bytes(good[0] + good[1] + damage)
    JSONLOutput(tmp_path).close()
    assert path.read_bytes() == good[0] + good[1]
    assert "1 damaged line(s) dropped" in capsys.readouterr().out


def test_steps_of_every_metric_increase_after_repair(tmp_path):
    path = tmp_path / "metrics.jsonl"
    steps = [(4, "a"), (8, "a"), (8, "b"), (4, "a"), (8, "a"), (6, "c"), (12, "a"), (5, "b")]
    path.write_text("".join(f'{{"step": {step}, "{name}": NaN}}\n' for step, name in steps))
    JSONLOutput(tmp_path).close()
    kept = [(x["step"], name) for x in lines(tmp_path) for name in x if name != "step"]
    assert kept == [(4, "a"), (8, "a"), (8, "b"), (6, "c"), (12, "a")]


def test_valid_file_is_not_touched(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(4, scalars(a=1))
    output.close()
    before = os.stat(tmp_path / "metrics.jsonl")
    JSONLOutput(tmp_path, start_step=4).close()
    after = os.stat(tmp_path / "metrics.jsonl")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


WRITER = """
    import sys
    from dreamerv2.common.logger.jsonl import JSONLOutput
    from dreamerv2.common.logger.logger import Entry
    output = JSONLOutput(sys.argv[1])
    print("ready", flush=True)
    for step in range(10**9):
        for name in ("x" * (step % 500 + 1), "y"):
            output.write(step, [Entry("scalar", name, step / 3)])
"""


def test_killed_writer_leaves_a_file_that_repair_makes_whole(tmp_path):
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            threading.Event().wait(0.01 + 0.02 * attempt)
            process.send_signal(signal.SIGKILL)
        JSONLOutput(folder).close()
        steps = [x["step"] for x in lines(folder)]
        assert steps == list(range(len(steps))), "a written line was lost or repeated"
        assert len(steps) > 10, "the writer was killed before it wrote"


def test_metrics_file_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Could not write .*file.*metrics.jsonl"):
        JSONLOutput(tmp_path / "file")
