"""The benchmarks run and report rows; the speeds themselves are not tested."""

import functools
import json
import re
import sys

import pytest
from commandline import TINY
from sources import output_of

from benchmarks.__main__ import main
from benchmarks.measure import Row

run = functools.partial(output_of, sys.executable, "-m", "benchmarks")


@pytest.mark.slow
def test_every_row_is_one_line_of_json_and_one_of_the_table():
    output = run("--quick", "--only", "replay", "environment")
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    rows = {line["name"]: line for line in lines}
    machine = rows.pop("machine")
    assert machine["cores"] > 0 and machine["cpu"] and machine["tensorflow"], machine
    assert len(rows) >= 8, f"the replay and the environment have more rows than {sorted(rows)}"
    for row in rows.values():
        assert row["min"] <= row["median"] <= row["max"], f"the median is not between them: {row}"
        assert row["unit"] and row["runs"] > 0, row
        lines = re.findall(rf"^{re.escape(row['name'])} +[\d.,]+ ", output, re.MULTILINE)
        assert len(lines) == 1, f"{row['name']} is in the table {len(lines)} times"
    # A batch is compared with a copy in the same process.
    row = rows["replay of 20,000 steps, batches of 16 x 50"]
    # 16 x 50 rows of 64 x 64 pixels, 6 actions, reward and three flags; read and written.
    assert row["gbyte"] == pytest.approx(2 * 800 * (4096 + 24 + 4 + 3) / 1e9), "bytes of a batch"
    assert row["gbyte_per_s"] == pytest.approx(row["gbyte"] * row["median"])
    assert 0 < row["roofline"], "the share of the roofline is missing"


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--only", "enviroment"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip() == (
        "Error: No benchmark is called 'enviroment'. Did you mean 'environment'?"
    )


def test_the_roofline_uses_the_tighter_bound():
    row = Row("x", [4.0, 2.0, 3.0], "ms", flops=1e9, bytes=2e9, peak_flops=1e12, peak_bytes=1e12)
    assert row.median == 3.0
    assert row.roofline == pytest.approx(2e-3 / 3e-3), (
        "the copy takes 2 ms of 3, the operations 1 ms"
    )
    rate = Row("x", [50.0], "batches/s", bytes=1e9, peak_bytes=1e11)
    assert rate.roofline == pytest.approx(0.01 / 0.02), "a rate is one over the time of a unit"
    assert Row("x", [5.0], "MiB").roofline == 0, "an amount of memory has no roofline"


@pytest.mark.slow
def test_the_export_contains_no_lookups_in_weights(tmp_path):
    """A GPU multiplies, and looks up only pixels of patches."""
    small = "--rssm.deter 8 --rssm.hidden 8 --dataset.batch 2 --dataset.length 4".split()
    path = tmp_path / "update.mlir"
    run("--configs", "atari", "small", *small, "--precision", "32", "--export", path)
    text = path.read_text()
    looked_up = re.findall(r'stablehlo.gather"[^\n]*: \(tensor<([\dx]+)xf32>', text)
    assert len(looked_up) == text.count('"stablehlo.gather"') and "stablehlo.dot" in text
    assert all(shape.count("x") == 2 for shape in looked_up), f"a lookup in weights: {looked_up}"


@pytest.mark.slow
def test_the_parts_of_an_update_are_measured_with_gradients_through_the_dynamics(tmp_path):
    path = tmp_path / "rows.json"
    options = ("--quick", "--only", "parts", "--precision", "32", "--json", path)
    flags = ("--configs", "atari", "small", *TINY, "--jit=True", "--actor_grad=both")
    output = run(*options, *flags)
    assert "{" not in output.split("unit")[1], "the lines are below the table as well"
    rows = {row["name"]: row for row in map(json.loads, path.read_text().splitlines())}
    for part in ("encoder", "observe", "decoder", "heads", "imagination", "target", "actor"):
        forward, both = rows[f"{part} forward"], rows[f"{part} forward and backward"]
        assert 0 < forward["gflop"] < both["gflop"], f"{part}: a gradient costs nothing"
        assert forward["min"] < both["median"], f"{part}: a gradient takes no time"
