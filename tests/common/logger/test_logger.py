"""What is logged can be read back: from metrics.jsonl, event files, GIFs and the terminal."""

import io
import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import pytest
import tqdm
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreamerv2.common.config.config import Config
from dreamerv2.common.errors import UserError
from dreamerv2.common.logger import jsonl as metricsfile
from dreamerv2.common.logger.logger import (
    Entry,
    EpisodeLog,
    JSONLOutput,
    Logger,
    TensorBoardOutput,
    TerminalOutput,
)
from dreamerv2.common.logger.progress import Progress
from dreamerv2.common.run.when import Counter
from dreamerv2.common.video import encode as video


class Memory:
    """An output that remembers."""

    def __init__(self):
        self.writes = []

    def write(self, step, entries):
        self.writes.append((step, entries))

    def flush(self):
        pass

    def close(self):
        pass


def scalars(**values):
    return [Entry("scalar", name, value) for name, value in values.items()]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def moving_square(frames=8, channels=3):
    clip = np.zeros((frames, 24, 32, channels), np.uint8)
    for t in range(frames):
        clip[t, 4:12, 2 * t : 2 * t + 8] = [255, 128, 0][:channels]
    return clip


# Logger.


def test_films_of_episodes_are_bounded_and_what_is_no_image_is_named(monkeypatch, capsys):
    monkeypatch.setattr("dreamerv2.common.logger.logger.FILMED", 5)
    output, step = Memory(), Counter(0)
    chosen = {f"log_keys_{name}": "^$" for name in ("sum", "mean", "max")}
    config = Config({**chosen, "log_keys_video": ["image", "imgae"], "eval_every": 1})
    log = EpisodeLog("train", config, Logger(step, [output], 4), step)
    for _ in range(2):
        log({"reward": np.ones(9), "image": np.zeros((9, 4, 4, 1), np.uint8)})
        step.increment()
    films = [value for kind, _, value in output.writes[0][1] if kind == "video"]
    assert [len(film) for film in films] == [5]
    assert capsys.readouterr().out.count("--log_keys_video imgae is no image; there are image") == 1


def test_a_bar_is_not_drawn_at_every_step(monkeypatch):
    """50 million steps would be 6 GB on a terminal that is recorded."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("Training", 10_000) as bar:
        for step in range(5000):
            bar.update(1)
            bar.show(train_return=step)
    shown = sys.stderr.getvalue()
    assert "Training" in shown and len(shown) < 50_000, f"{len(shown)} bytes for 5,000 steps"


def test_entries_of_an_episode_are_reduced_as_the_knobs_say():
    """The sum is that of all elements, the maximum the mean of every element's."""
    output, step = Memory(), Counter(0)
    chosen = {f"log_keys_{name}": "^vector$" for name in ("sum", "mean", "max")}
    config = Config({**chosen, "log_keys_video": [""], "eval_every": 0})
    log = EpisodeLog("train", config, Logger(step, [output], 4), step)
    log({"reward": np.ones(3), "vector": np.array([[1, 2], [3, 4], [5, 0]])}, {"total_steps": 7})
    logged = {name: value for _, name, value in output.writes[0][1]}
    assert logged["sum_train_vector"] == 15 and logged["mean_train_vector"] == 2.5
    assert logged["max_train_vector"] == 4.5 and logged["train_total_steps"] == 7
    assert logged["train_return"] == 3 and logged["train_length"] == 2


def test_steps_are_environment_frames_at_the_time_of_the_write():
    memory, counter = Memory(), Counter(10)
    logger = Logger(counter, [memory], multiplier=4)
    logger.scalar("loss", 1.5)
    counter.increment(5)
    logger.write()
    logger.write()
    assert memory.writes == [(60, [Entry("scalar", "loss", 1.5)])]


def test_every_output_receives_every_entry_in_order():
    outputs = [Memory(), Memory()]
    logger = Logger(Counter(), outputs)
    for value in (3, 1, 2):
        logger.scalar("return", value)
    logger.write()
    for output in outputs:
        assert [x.value for x in output.writes[0][1]] == [3, 1, 2]


def test_add_chooses_the_kind_by_the_number_of_dimensions():
    memory = Memory()
    logger = Logger(Counter(), [memory])
    clip = moving_square()
    logger.add(
        {"a": np.float32(1), "b": clip[0, :, :, 0], "c": clip[0], "d": clip, "e": "words"}, "eval"
    )
    logger.write()
    entries = memory.writes[0][1]
    assert [(x.kind, x.name) for x in entries] == [
        ("scalar", "eval_a"),
        ("image", "eval_b"),
        ("image", "eval_c"),
        ("video", "eval_d"),
        ("text", "eval_e"),
    ]
    assert entries[1].value.shape == (24, 32, 1)


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 3), (12, 3)])
def test_of_many_channels_those_are_shown_that_a_picture_has(channels, shown):
    memory, clip = Memory(), np.arange(3 * 4 * 5 * channels, dtype=np.uint8)
    clip = clip.reshape(3, 4, 5, channels)
    logger = Logger(Counter(), [memory])
    logger.add({"image": clip[0], "clip": clip})
    logger.write()
    image, video = (entry.value for entry in memory.writes[0][1])
    assert np.array_equal(image, clip[0, ..., :shown]) and np.array_equal(video, clip[..., :shown])
    assert not np.shares_memory(video, clip), "it would change with its source"


@pytest.mark.parametrize("value", [np.zeros(3), np.zeros((2, 3, 4, 5, 3)), np.zeros((4, 0, 3))])
def test_values_that_nobody_can_show_are_refused_by_name(value):
    with pytest.raises(ValueError, match="odd_thing"):
        Logger(Counter(), []).add({"thing": value}, "odd")


def test_collected_video_does_not_change_with_the_buffer_it_came_from():
    memory, buffer = Memory(), moving_square()
    logger = Logger(Counter(), [memory])
    logger.video("clip", buffer)
    buffer[:] = 7
    logger.write()
    assert (memory.writes[0][1][0].value == moving_square()).all()


@pytest.mark.parametrize("value", [np.float32(0.1), np.float16(0.1), np.float32(1e-8), 3, True])
def test_numbers_are_written_in_their_shortest_form_and_lose_nothing(value):
    memory = Memory()
    logger = Logger(Counter(), [memory])
    logger.scalar("x", value)
    logger.write()
    written = json.dumps(memory.writes[0][1][0].value)
    assert type(value)(json.loads(written)) == value
    assert len(written) <= 5


def test_fps_counts_environment_frames_since_the_last_time():
    memory, counter = Memory(), Counter(1000)
    logger = Logger(counter, [memory], multiplier=4)
    for _ in range(2):
        counter.increment(500)
        threading.Event().wait(0.2)
        logger.write(fps=True)
    rates = [entries[0].value for _, entries in memory.writes]
    assert all(5000 < rate <= 10_000 for rate in rates), "500 steps x 4 frames in >= 0.2 s"


def test_close_writes_what_is_left_and_closes_all_even_if_one_fails():
    closed = []

    class Failing(Memory):
        def close(self):
            closed.append(self)
            raise RuntimeError("cannot close")

    outputs = [Failing(), Memory(), Failing()]
    logger = Logger(Counter(), outputs)
    logger.scalar("last", 1)
    with pytest.raises(RuntimeError, match="cannot close"):
        logger.close()
    assert len(closed) == 2
    assert outputs[1].writes


# metrics.jsonl.


def test_lines_begin_with_the_step_and_pandas_reads_them(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(4, scalars(loss=1.5, count=3) + [Entry("text", "config", "a: 1")])
    output.write(8, scalars(loss=float("nan"), big=float("inf")))
    output.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 4, "loss": 1.5, "count": 3}\n{"step": 8, "loss": null, "big": null}\n'
    frame = pd.read_json(tmp_path / "metrics.jsonl", lines=True)
    assert frame.loss.isna().tolist() == [False, True]


def test_lines_are_on_file_when_write_returns(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(1, scalars(a=1))
    assert lines(tmp_path) == [{"step": 1, "a": 1}]


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
    first.write(8, scalars(a=2, b=None or 5))
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
    path.write_text("".join(f'{{"step": {step}, "{name}": 1}}\n' for step, name in steps))
    JSONLOutput(tmp_path).close()
    kept = [(x["step"], name) for x in lines(tmp_path) for name in x if name != "step"]
    assert kept == [(4, "a"), (8, "a"), (8, "b"), (6, "c"), (12, "a")]


def test_a_line_of_the_release_with_nan_is_repaired_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "a": NaN}\n{"step": 4, "a": 1, "b": NaN, "c": -Infinity}\n')
    JSONLOutput(tmp_path).close()
    assert lines(tmp_path)[1] == {"step": 4, "b": None, "c": None}


def test_sound_file_is_not_touched(tmp_path):
    output = JSONLOutput(tmp_path)
    output.write(4, scalars(a=1))
    output.close()
    before = os.stat(tmp_path / "metrics.jsonl")
    JSONLOutput(tmp_path, start_step=4).close()
    after = os.stat(tmp_path / "metrics.jsonl")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize("length", [10, 4095, 4096, 4097, 20_000])
def test_last_line_of_any_length_is_found_again(tmp_path, length):
    name = "n" * length
    first = JSONLOutput(tmp_path)
    first.write(1, scalars(a=1))
    first.write(2, scalars(**{name: 1}))
    first.close()
    second = JSONLOutput(tmp_path)
    second.write(2, scalars(b=2))
    assert lines(tmp_path) == [{"step": 1, "a": 1}, {"step": 2, name: 1, "b": 2}]


WRITER = """
    import sys
    from dreamerv2.common.logger.logger import Entry, JSONLOutput
    output = JSONLOutput(sys.argv[1])
    print("ready", flush=True)
    for step in range(10**9):
        for name in ("x" * (step % 500 + 1), "y"):
            output.write(step, [Entry("scalar", name, step / 3)])
"""


def test_killed_writer_leaves_a_file_that_repair_makes_whole(tmp_path):
    for attempt in range(5):
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


FULL_DISK = """
    import resource, sys
    from dreamerv2.common.errors import UserError
    from dreamerv2.common.logger.logger import Entry, JSONLOutput
    output = JSONLOutput(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        for step in range(1000):
            output.write(step, [Entry("scalar", "loss", step / 7)])
            output.write(step, [Entry("scalar", "other", step / 7)])
    except UserError as error:
        print(error)
"""


def test_full_disk_is_named_and_leaves_whole_lines(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Cannot write" in result.stdout and "make room" in result.stdout
    text = (tmp_path / "metrics.jsonl").read_text()
    assert 800 < len(text) <= 1000 and text.endswith("}\n")
    steps = [x["step"] for x in lines(tmp_path)]
    assert steps == list(range(len(steps)))


def test_metrics_file_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write .*file.*metrics.jsonl"):
        JSONLOutput(tmp_path / "file")


def test_repair_of_a_file_that_does_not_exist_makes_none(tmp_path):
    metricsfile.repair(tmp_path / "metrics.jsonl", 5)
    assert not os.listdir(tmp_path)


# TensorBoard.


def test_event_file_holds_scalars_images_videos_and_text(tmp_path):
    counter = Counter(5)
    logger = Logger(counter, [TensorBoardOutput(tmp_path)], multiplier=4)
    clip, gray = moving_square(), moving_square(channels=1)
    logger.add({"loss": np.float32(0.25), "still": clip[0], "openl": clip, "policy": gray / 255})
    logger.text("config", "seed: 0\nrssm:\n  deter: 600")
    logger.write()
    counter.increment(5)
    logger.add({"loss": 0.5})
    logger.write()
    logger.close()
    found = events(tmp_path)
    assert [(x.step, x.value) for x in found.Scalars("loss")] == [(20, 0.25), (40, 0.5)]
    for name, expected in (("openl", clip), ("policy", gray)):
        (image,) = found.Images(name)
        assert (image.step, image.height, image.width) == (20, 24, 32)
        assert image.encoded_image_string[:6] == b"GIF89a"
        assert_shows(image.encoded_image_string, expected)
    assert found.Images("still")[0].encoded_image_string[1:4] == b"PNG"
    (text,) = found.Tensors("config")
    assert b"rssm:\n  deter: 600" in text.tensor_proto.string_val[0]
    assert found.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_order_is_kept_and_flush_waits(tmp_path):
    output = TensorBoardOutput(tmp_path)
    for step in range(100):
        output.write(step, scalars(a=step) + [Entry("video", "v", moving_square(2))])
    output.flush()
    assert [x.step for x in events(tmp_path).Scalars("a")] == list(range(100))
    output.close()
    output.close()


def test_resumed_run_hides_what_was_logged_beyond_its_checkpoint(tmp_path):
    first = TensorBoardOutput(tmp_path)
    for step in (10, 20, 21, 30):
        first.write(step, scalars(a=1))
    first.close()
    second = TensorBoardOutput(tmp_path, start_step=20)
    second.write(25, scalars(a=2))
    second.close()
    found = [(x.step, x.value) for x in events(tmp_path).Scalars("a")]
    assert found == [(10, 1), (20, 1), (25, 2)]


def test_unwritable_directory_is_reported_once_and_written_when_it_is_back(tmp_path, capsys):
    blocked = tmp_path / "run"
    blocked.write_text("a file where the folder should be")
    output = TensorBoardOutput(blocked)
    for step in range(3):
        output.write(step, scalars(a=step))
    output.flush()
    assert capsys.readouterr().out.count("cannot write TensorBoard events") == 1
    blocked.unlink()
    output.write(3, scalars(a=3))
    output.close()
    assert [x.step for x in events(blocked).Scalars("a")] == [3]


@pytest.fixture
def file_size_limit():
    """A function that limits how large this process may make a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_clock_that_was_set_back_hides_nothing(tmp_path, monkeypatch):
    live, now = events(tmp_path), time.time()
    for start, clock in ((0, now), (10, now), (20, now - 3600)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        output = TensorBoardOutput(tmp_path, start_step=start)
        output.write(start + 1, scalars(a=1))
        output.close()
        live.Reload()
    for reader in (live, events(tmp_path)):
        assert [x.step for x in reader.Scalars("a")] == [1, 11, 21]


def test_full_disk_costs_only_what_did_not_fit(tmp_path, file_size_limit, capsys):
    output = TensorBoardOutput(tmp_path)
    output.write(0, scalars(a=0))
    output.flush()
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    file_size_limit(1000)
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 1), np.uint8)
    for step in (1, 2):
        output.write(step, scalars(a=step) + [Entry("video", "v", noise)])
    output.flush()
    file_size_limit(10**9)
    assert path.stat().st_size == size, "half a record was left behind"
    output.write(3, scalars(a=3))
    output.close()
    assert [x.step for x in events(tmp_path).Scalars("a")] == [0, 3]
    assert capsys.readouterr().out.count("cannot write TensorBoard events") == 1


def test_completely_full_disk_collects_no_empty_files(tmp_path, file_size_limit):
    output = TensorBoardOutput(tmp_path)
    file_size_limit(0)
    for step in range(3):
        output.write(step, scalars(a=step))
    output.flush()
    left = os.listdir(tmp_path)
    file_size_limit(10**9)
    output.close()
    assert left == []


def test_bug_in_the_writing_thread_reaches_the_caller(tmp_path):
    output = TensorBoardOutput(tmp_path)
    output.write(0, [Entry("video", "v", "no array")])
    with pytest.raises(Exception, match="video|shape|str"):
        output.flush()
    output.write(1, scalars(a=1))
    output.close()
    assert [x.step for x in events(tmp_path).Scalars("a")] == [1]


def test_close_ends_the_thread_and_the_file(tmp_path):
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(5):
        output = TensorBoardOutput(tmp_path / str(number))
        output.write(0, scalars(a=1))
        output.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


def test_logging_does_not_import_tensorflow(tmp_path):
    code = """
        import sys
        from dreamerv2.common.run import checkpoint, counter, lock, when
        from dreamerv2.common.logger.logger import Entry, TensorBoardOutput
        output = TensorBoardOutput(sys.argv[1])
        output.write(0, [Entry("scalar", "a", 1), Entry("text", "b", "c")])
        output.close()
        sys.exit("tensorflow" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command).returncode == 0
    assert events(tmp_path).Scalars("a")


# Videos.


def frames_of(gif):
    """Return the frames of a GIF at 10 ms each, [T', H, W, 3], and its length in seconds."""
    image, frames, milliseconds = Image.open(io.BytesIO(gif)), [], 0
    for index in range(image.n_frames):
        image.seek(index)
        milliseconds += image.info["duration"]
        frames += [np.asarray(image.convert("RGB"))] * (image.info["duration"] // 10)
    return np.stack(frames), milliseconds / 1000


def assert_shows(gif, clip, tolerance=0):
    shown, seconds = frames_of(gif)
    assert seconds == pytest.approx(len(clip) * 0.05)
    expected = np.broadcast_to(clip, (*clip.shape[:3], 3)).repeat(5, 0)
    assert np.abs(shown.astype(int) - expected).max() <= tolerance


def test_gray_gif_is_exact_even_for_noise():
    clip = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 1), np.uint8)
    assert_shows(video.encode_gif(clip), clip)


def test_still_frames_keep_their_time():
    clip = moving_square().repeat(3, 0)
    assert_shows(video.encode_gif(clip), clip)


def test_a_still_longer_than_a_gif_can_tell_is_shortened():
    """A game that waits for its player shows one frame for minutes; 16 bits are 655 s."""
    clip = np.zeros((13_200, 4, 4, 1), np.uint8)
    clip[13_150:] = 255
    gif = Image.open(io.BytesIO(video.encode_gif(clip)))
    durations = [gif.seek(t) or gif.info["duration"] for t in range(gif.n_frames)]
    assert sum(durations[:-1]) == 655_350 and durations[-1] == 50 * 50
    colours = np.repeat(clip, 3, -1)
    assert Image.open(io.BytesIO(video.encode_gif(colours))).n_frames == gif.n_frames


def test_colours_of_a_long_video_stay_close():
    t, y, x = np.mgrid[:30, :48, :64]
    clip = np.stack([128 + 120 * np.sin(x / 9 + t / 5), y * 5, (x + y) * 2], -1).astype(np.uint8)
    shown, _ = frames_of(video.encode_gif(clip))
    assert np.abs(shown[::5].astype(int) - clip).mean() < 12, "of 255"


def test_small_bright_object_in_a_colour_video_survives():
    clip = np.full((20, 64, 64, 3), 90, np.uint8)
    for t in range(20):
        clip[t, 30, 3 * t] = [255, 0, 0]
    assert_shows(video.encode_gif(clip), clip)


def test_floats_are_scaled_and_a_diverged_model_is_still_shown():
    values = np.array([0, 0.5, 1, -3, 7, np.nan, np.inf, -np.inf], np.float32)
    assert video.to_uint8(values).tolist() == [0, 128, 255, 0, 255, 0, 255, 0]


@pytest.mark.parametrize(("fps", "seconds"), [(20, 0.05), (50, 0.02), (1000, 0.02), (1, 1.0)])
def test_frame_duration_follows_fps(fps, seconds):
    clip = moving_square(4)
    assert frames_of(video.encode_gif(clip, fps))[1] == pytest.approx(4 * seconds)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 2), (0, 8, 8, 3), (4, 0, 8, 3)])
def test_gif_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="must be"):
        video.encode_gif(np.zeros(shape, np.uint8))


def test_save_gif_creates_its_folder(tmp_path):
    video.save_gif(tmp_path / "videos" / "a.gif", moving_square())
    assert_shows((tmp_path / "videos" / "a.gif").read_bytes(), moving_square())


# Terminal.


def test_plain_output_is_one_line_a_write():
    stream = io.StringIO()
    output = TerminalOutput(stream)
    output.write(8000, scalars(**{f"metric_{i}": i / 7 for i in range(40)}))
    output.write(8004, scalars(train_return=-21.0, n=3, bad=float("nan"), huge=1e20))
    output.write(8008, [Entry("text", "config", "only text")])
    first, second = stream.getvalue().splitlines()
    assert first.startswith("[8000] metric_0 0 / metric_1 0.1429 / ")
    assert second == "[8004] train_return -21 / n 3 / bad nan / huge 1e+20"


def test_lines_and_bars_do_not_mix_on_a_terminal():
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        with tqdm.tqdm(total=10, file=stream, mininterval=0, ncols=60) as bar:
            bar.update(3)
            TerminalOutput(stream).write(12, scalars(train_return=5.5))
            bar.update(1)
        shown = ""
        while select.select([leader], [], [], 0.5)[0]:
            shown += os.read(leader, 100_000).decode()
    os.close(leader)
    rows = [row.rstrip("\r").split("\r")[-1] for row in shown.split("\n")]
    assert "[12] train_return 5.5" in rows, "the line must stand on a row of its own"
    assert "4/10" in shown.split("train_return 5.5")[1], "the bar must come back below it"


def test_closed_terminal_line_is_wrapped_to_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    TerminalOutput(stream).write(4, scalars(**{f"metric_{i}": i for i in range(20)}))
    rows = stream.getvalue().splitlines()
    assert len(rows) > 3 and max(map(len, rows)) <= 60
    assert " ".join(" ".join(rows).split()).count("metric_") == 20


# All of it.


def test_equal_runs_write_equal_bytes(tmp_path):
    for name in "ab":
        rng, counter = np.random.default_rng(7), Counter()
        logger = Logger(counter, [JSONLOutput(tmp_path / name)], multiplier=4)
        for _ in range(50):
            counter.increment(3)
            logger.add({"loss": rng.normal(size=()).astype(np.float32), "ret": rng.normal()})
            logger.write()
        logger.flush()
        logger.close()
    a, b = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "ab")
    assert a == b and a.count(b"\n") == 50
