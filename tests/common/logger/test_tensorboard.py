"""Event files can be read back, with a full disk, a set-back clock and a resumed run as well."""

import os
import time

import numpy as np
from episode_rows import file_size_limit
from logs import assert_gif_shows, moving_square, scalars
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreamerv2.common.logger import Logger
from dreamerv2.common.logger.logger import Entry
from dreamerv2.common.logger.tensorboard import TensorBoardOutput
from dreamerv2.common.run.when import Counter


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_event_file_holds_scalars_videos_and_text(tmp_path):
    counter = Counter(5)
    logger = Logger(counter, [TensorBoardOutput(tmp_path)], multiplier=4)
    clip, gray = moving_square(), moving_square(channels=1)
    logger.add({"loss": np.float32(0.25), "openl": clip, "policy": gray / 255})
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
        assert_gif_shows(image.encoded_image_string, expected)
    (text,) = found.Tensors("config")
    assert b"rssm:\n  deter: 600" in text.tensor_proto.string_val[0]
    assert found.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_resumed_run_hides_events_beyond_its_checkpoint(tmp_path):
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


def test_full_disk_loses_only_the_entries_without_room(tmp_path, capsys):
    output = TensorBoardOutput(tmp_path)
    output.write(0, scalars(a=0))
    output.flush()
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 1), np.uint8)
    with file_size_limit(1000):
        for step in (1, 2):
            output.write(step, scalars(a=step) + [Entry("video", "v", noise)])
        output.flush()
    assert path.stat().st_size == size, "half a record was left behind"
    output.write(3, scalars(a=3))
    output.close()
    assert [x.step for x in events(tmp_path).Scalars("a")] == [0, 3]
    assert capsys.readouterr().out.count("cannot write TensorBoard events") == 1


def test_completely_full_disk_collects_no_empty_files(tmp_path):
    output = TensorBoardOutput(tmp_path)
    with file_size_limit(0):
        for step in range(3):
            output.write(step, scalars(a=step))
        output.close()
    assert os.listdir(tmp_path) == []
