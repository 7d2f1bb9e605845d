"""Checkpoints survive kill -9, full disks and damage, and do no harm when a stranger made them."""

import concurrent.futures
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from episode_rows import file_size_limit, start_python

from dreamerv2.common import npz
from dreamerv2.common.errors import DamagedFile, UserError
from dreamerv2.common.run import checkpoint as checkpoint_lib
from dreamerv2.common.run.checkpoint import Checkpoint, compare


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {
        "rssm/gru/kernel:0": rng.normal(size=(30, 20)).astype(np.float32),
        "file": rng.normal(size=5).astype(np.float16),  # np.savez cannot store this name.
        "count": np.int64(2**40 + seed),
        "flag": np.bool_(True),
        "empty": np.zeros((0, 3), np.float64),
        "fortran": np.asfortranarray(rng.integers(0, 255, (4, 6)).astype(np.uint8)),
    }


def state(seed):
    return {"step": seed, "rng": 2**127 + seed, "nested": {"list": [1, 2.5, None, "ü"]}}


def assert_equal(loaded, step, seed):
    assert loaded[0] == step
    assert loaded[2] == state(seed)
    assert loaded[1].keys() == arrays(seed).keys()
    for name, expected in arrays(seed).items():
        assert loaded[1][name].dtype == expected.dtype
        np.testing.assert_array_equal(loaded[1][name], expected, strict=True)


def names(folder):
    return sorted(os.listdir(folder))


def saved(folder, *steps, keep=2):
    checkpoint = Checkpoint(folder, keep)
    return [checkpoint.save(step, arrays(step), state(step)) for step in steps]


def test_a_checkpoint_is_loaded_bit_for_bit(tmp_path):
    folder = tmp_path / "checkpoints"
    assert Checkpoint(folder).load() is None
    assert names(tmp_path) == [], "only a save may create the folder"
    saved(folder, 7)
    assert_equal(Checkpoint(folder).load(), 7, 7)


def test_the_newest_versions_are_kept_beside_foreign_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "best-000000000099").mkdir()
    saved(tmp_path, 1, 20, 999_999_999_999, 1_000_000_000_000, keep=2)
    versions = [name for name in names(tmp_path) if name.isdigit()]
    assert versions == ["1000000000000", "999999999999"] and len(names(tmp_path)) == 4
    assert_equal(Checkpoint(tmp_path).load(), 1_000_000_000_000, 1_000_000_000_000)


def test_same_step_again_replaces_it_and_nothing_else(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    for step, seed in ((4, 4), (8, 8), (8, 9), (8, 10)):
        checkpoint.save(step, arrays(seed), state(seed))
    assert_equal(Checkpoint(tmp_path).load(), 8, 10)
    assert len(names(tmp_path)) == 2
    assert names(tmp_path)[0] == "000000000004"


@pytest.mark.parametrize(
    "bad_arrays, bad_state",
    [({"x": np.array([None])}, {}), ({"x": "text"}, {}), ({}, {"x": np.zeros(2)})],
)
def test_contents_that_cannot_be_stored_leave_nothing_behind(tmp_path, bad_arrays, bad_state):
    saved(tmp_path, 5)
    with pytest.raises(TypeError):
        Checkpoint(tmp_path).save(6, bad_arrays, bad_state)
    assert names(tmp_path) == ["000000000005"]


def flip_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = [flip_bit, lambda content: content[:-10], lambda content: b"[" * 50_000, None]
MARKERS = [b"[]", b"5", b'{"format": "1"}', b'{"format": 1, "step": 20, "files": ["a"]}']


@pytest.mark.parametrize(
    "name, damage",
    [
        *itertools.product(["variables.npz", "state.json", "complete.json"], DAMAGES),
        *(("complete.json", lambda content, marker=marker: marker) for marker in MARKERS),
    ],
)
def test_damaged_newest_falls_back_with_a_warning(tmp_path, capsys, name, damage):
    old, new = saved(tmp_path, 10, 20)
    content = (new / name).read_bytes()
    (new / name).unlink()
    if damage:
        (new / name).write_bytes(damage(content))
    assert_equal(Checkpoint(tmp_path).load(), 10, 10)
    shown = capsys.readouterr().out
    assert str(new) in shown and "damaged" in shown and "step 10 instead" in shown
    assert old.exists() and new.exists(), "loading removes nothing"


@pytest.mark.parametrize("step", [15, 20])
def test_after_a_fallback_the_next_save_removes_the_damaged_version(tmp_path, step):
    _, new = saved(tmp_path, 10, 20)
    (new / "variables.npz").unlink()
    checkpoint = Checkpoint(tmp_path)
    checkpoint.load()
    checkpoint.save(step, arrays(21), state(21))
    assert len(names(tmp_path)) == 2 and new.name not in names(tmp_path)
    assert_equal(Checkpoint(tmp_path).load(), step, 21)


def test_later_format_is_named_as_such(tmp_path):
    (folder,) = saved(tmp_path, 10)
    (folder / "complete.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99.*newer program"):
        Checkpoint(tmp_path).load()


def test_reader_follows_a_writer_that_prunes(tmp_path):
    """Each load while another thread saves is whole and not older than the load before."""
    saved(tmp_path, 0, keep=1)
    reader, last = Checkpoint(tmp_path), 0
    with concurrent.futures.ThreadPoolExecutor() as threads:
        writing = threads.submit(saved, tmp_path, *range(1, 60), keep=1)
        while not writing.done():
            step, loaded, _ = reader.load()
            assert step >= last and loaded["count"] == 2**40 + step
            last = step
        writing.result()


PICKLE = b"cposix\nmkdir\n(S'executed'\ntR."  # makes a folder when it is loaded


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def forge(folder, archive_bytes, state_bytes):
    """Write a version with a correct marker of any content."""
    folder.mkdir(parents=True)
    (folder / "variables.npz").write_bytes(archive_bytes)
    (folder / "state.json").write_bytes(state_bytes)
    files = {name: checkpoint_lib._fingerprint(folder / name) for name in names(folder)}
    marker = {"format": 1, "step": int(folder.name), "files": files}
    (folder / "complete.json").write_text(json.dumps(marker))


def archive(**values):
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def member(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", content)
    return buffer.getvalue()


BOMBS = [archive(a=np.array([Bomb()], object)), PICKLE, member(PICKLE), member(b""), b"PK"]
STATES = [b"[1]", b"nope", b"\xff\xfe", b"[" * 10**5, b"1" * 10**5]
HOSTILE = [(bomb, b"{}") for bomb in BOMBS]
HOSTILE += [(archive(a=np.zeros(3)), text) for text in STATES]


@pytest.mark.parametrize("contents", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_arrays_are_damage_and_nothing_runs(tmp_path, monkeypatch, contents):
    monkeypatch.chdir(tmp_path)
    forge(tmp_path / "checkpoints" / "000000000005", *contents)
    with pytest.raises(UserError, match="damaged"):
        Checkpoint(tmp_path / "checkpoints").load()
    assert names(tmp_path) == ["checkpoints"]


def test_random_damage_behind_a_correct_marker_never_crashes(tmp_path):
    """The checksum of a marker can be fitted to any bytes, so the readers must accept any."""
    good = archive(a=np.arange(9.0), b=np.zeros((4, 6), np.uint8), c=np.bool_(True))
    rng, outcomes, path = random.Random(0), set(), tmp_path / "variables.npz"
    for _ in range(150):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.randint(1, len(content)) if rng.random() < 0.2 else None])
        try:
            npz.read_arrays(path)
            outcomes.add("read")
        except DamagedFile:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


SAVER = """
import sys
import numpy as np
from dreamerv2.common.run.checkpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1])
loaded = checkpoint.load()
step = loaded[0] + 1 if loaded else 0
print("ready", step, flush=True)
while True:
    values = {f"v{i}": np.full((200, 500), step, np.float32) for i in range(5)}
    checkpoint.save(step, values, {"step": step})
    print(step, flush=True)
    step += 1
"""


@pytest.mark.slow
def test_fifty_killed_saves_lose_nothing_that_was_finished(tmp_path, capfd):
    rng, last = random.Random(1), -1
    for _ in range(50):
        with start_python(SAVER, tmp_path) as process:
            assert process.stdout.readline() == f"ready {last + 1}\n", "a finished save was lost"
            threading.Event().wait(rng.uniform(0, 0.15))
            process.kill()
            confirmed = [last, *map(int, process.stdout.read().split())]
        last, values, extra = Checkpoint(tmp_path).load() or (-1, {}, {"step": -1})
        # A save may be whole although the process died before it could say so.
        assert last - confirmed[-1] in (0, 1), "a finished save was lost"
        assert extra == {"step": last}
        assert all((value == last).all() for value in values.values())
    saved(tmp_path, last + 1)
    assert last > 50 and len(names(tmp_path)) == 2 and all(x.isdigit() for x in names(tmp_path))
    assert "damaged" not in capfd.readouterr().out


STEPWISE = """
import os, sys
import numpy as np
from dreamerv2.common.run.checkpoint import Checkpoint
WATCHED = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"}
for limit in range(100):
    folder = os.path.join(sys.argv[1], str(limit))
    Checkpoint(folder).save(10, {"a": np.full(9, 10)}, {"step": 10})
    child = os.fork()
    if not child:
        calls = 0
        def die(event, args):
            global calls
            if event in WATCHED:
                calls += 1
                if calls > limit:
                    os.kill(os.getpid(), 9)
        checkpoint = Checkpoint(folder, keep=1)
        sys.addaudithook(die)
        checkpoint.save(20, {"a": np.full(9, 20)}, {"step": 20})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(status, flush=True)
    if not status:
        break
"""


def test_save_killed_at_each_file_system_call_leaves_a_whole_checkpoint(tmp_path):
    with start_python(STEPWISE, tmp_path) as process:
        statuses = [int(x) for x in process.stdout.read().split()]
    assert statuses == [signal.SIGKILL] * (len(statuses) - 1) + [0]
    assert len(statuses) > 8, "the hook must have seen the calls of a save"
    seen = []
    for limit in range(len(statuses)):
        checkpoint = Checkpoint(tmp_path / str(limit))
        step, loaded, extra = checkpoint.load()
        assert (loaded["a"] == step).all() and extra == {"step": step}
        checkpoint.save(30, arrays(30), state(30))
        assert_equal(checkpoint.load(), 30, 30)
        assert all(x.isdigit() for x in names(tmp_path / str(limit)))
        seen.append(step)
    assert seen == sorted(seen) and set(seen) == {10, 20}


@pytest.mark.parametrize("room", [0, 300, 2600, 3500])
def test_full_disk_keeps_the_last_checkpoint_and_no_half_one(tmp_path, room):
    saved(tmp_path, 10)
    checkpoint = Checkpoint(tmp_path)
    with file_size_limit(room), pytest.raises(UserError, match="step 10 is intact. Make room"):
        checkpoint.save(20, arrays(20), state(20))
    assert names(tmp_path) == ["000000000010"]
    assert_equal(checkpoint.load(), 10, 10)
    checkpoint.save(20, arrays(20), state(20))
    assert_equal(checkpoint.load(), 20, 20)


FILL = """
import os, sys
import numpy as np
from dreamerv2.common.run.checkpoint import Checkpoint
from dreamerv2.common.errors import UserError
checkpoint = Checkpoint(sys.argv[1])
try:
    for step in (1, 2, 3):
        checkpoint.save(step, {"a": np.zeros(step * 40_000, np.uint8)}, {})
except UserError as error:
    print(error, sorted(os.listdir(sys.argv[1])), checkpoint.load()[0])
"""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("mount"), reason="needs root to mount")
def test_really_full_file_system(tmp_path):
    code = 'mount -t tmpfs -o size=200k tmpfs "$0" && exec "$1" -c "$2" "$0/checkpoints"'
    command = ["unshare", "--mount", "sh", "-c", code, str(tmp_path), sys.executable, FILL]
    result = subprocess.run(command, capture_output=True, text=True)
    if "mount" in result.stderr or "unshare" in result.stderr:
        pytest.skip(f"cannot mount here: {result.stderr.strip()}")
    assert result.stdout.startswith("Could not write "), result.stderr
    assert "No space left on device" in result.stdout
    assert result.stdout.endswith("['000000000001', '000000000002'] 2\n")


def test_compare_names_the_first_five_differences():
    old = {"same": np.zeros(3), "shape": np.zeros((2, 4)), "type": np.float32(0)}
    old["extra"] = np.zeros(1)
    new = {"same": ((3,), float), "shape": ((2, 3), float), "type": ((), int), "missing": ((), int)}
    assert compare(new, old) == [
        "extra is unknown to this model",
        "missing is missing in the checkpoint",
        "shape is [2, 4] in the checkpoint, [2, 3] in this model",
        "type is float32 in the checkpoint, int64 in this model",
    ]
    assert compare({str(i): ((), np.int8) for i in range(9)}, {})[5:] == ["and 4 more"]
