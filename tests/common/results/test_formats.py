"""Metrics and curves are read with damage and odd numbers, and the damage is counted."""

import pytest
from result_files import write_run

from dreamerv2.common.errors import UserError
from dreamerv2.common.results import formats


def test_damaged_lines_are_skipped_and_counted(tmp_path):
    damaged = write_run(tmp_path / "run", range(60)) / "metrics.jsonl"
    good = damaged.read_text().splitlines()
    bad = ['{"step": 5, "eval_return": ', '{"step": 6, "eval_re', "\0\0\0", '["eval_return"]']
    bad += [
        '{"step": 7, "eval_return": 1}{"step": 8, "eval_return": 1}',
        '{"a": \udcff"eval_return"}',
    ]
    lines = [*good[:30], *bad, *good[30:], '{"step": 9, "eval_return": null}', '{"ste']
    damaged.write_text("\n".join(lines), errors="surrogateescape")
    xs, ys, count = formats.read_metrics(damaged, "step", "eval_return")
    assert ys.tolist() == [*range(60)] and xs.tolist() == [1000 * (i + 1) for i in range(60)]
    assert count == len(bad) + 1, "every damaged line must be counted, null is none"


def test_two_halves_of_a_line_do_not_pass_for_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1\n"eval_return": 2}\n{"step": 3, "eval_return": 4}\n')
    xs, ys, damaged = formats.read_metrics(path, "step", "eval_return")
    assert (xs.tolist(), ys.tolist(), damaged) == ([3], [4], 2)


def test_blank_lines_in_curves_are_no_rows(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text("task,method,step,mean,std,seeds\nt,m,1,3,1,4\n\nt,m,2,5,1,4\n\n \n")
    (curve,) = formats.read_curves(path)
    assert (curve.xs.tolist(), curve.mid.tolist()) == ([1, 2], [3, 5])
    path.write_text("task,method,step,mean,std,seeds\nt\n")
    with pytest.raises(UserError, match="should be numbers"):
        formats.read_curves(path)
