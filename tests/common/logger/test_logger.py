"""Metrics reach every output with their step, converted and copied."""

import json
import threading

import numpy as np
import pytest
from logs import Memory, moving_square

from dreamerv2.common.logger import Logger
from dreamerv2.common.logger.logger import Entry
from dreamerv2.common.run.when import Counter


def test_steps_are_environment_frames_at_the_time_of_the_write():
    memory, counter = Memory(), Counter(10)
    logger = Logger(counter, [memory], multiplier=4)
    logger.scalar("loss", 1.5)
    counter.increment(5)
    logger.write()
    logger.write()
    assert memory.writes == [(60, [Entry("scalar", "loss", 1.5)])]


def test_add_chooses_the_kind_by_the_number_of_dimensions():
    memory = Memory()
    logger = Logger(Counter(), [memory])
    clip = moving_square()
    logger.add({"a": np.float32(1), "b": clip}, "eval")
    logger.text("c", "words")
    logger.write()
    entries = memory.writes[0][1]
    assert [x[:2] for x in entries] == [("scalar", "eval_a"), ("video", "eval_b"), ("text", "c")]


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 3), (12, 3)])
def test_video_has_the_channels_that_can_be_displayed(channels, shown):
    memory, clip = Memory(), np.arange(3 * 4 * 5 * channels, dtype=np.uint8)
    clip = clip.reshape(3, 4, 5, channels)
    logger = Logger(Counter(), [memory])
    logger.video("clip", clip)
    logger.write()
    video = memory.writes[0][1][0].value
    assert np.array_equal(video, clip[..., :shown])
    assert not np.shares_memory(video, clip), "it would change with its source"


@pytest.mark.parametrize("value", [np.zeros(3), np.zeros((2, 3, 4, 5, 3)), np.zeros((4, 0, 3))])
def test_values_of_other_shapes_are_refused_by_name(value):
    with pytest.raises(ValueError, match="odd_thing"):
        Logger(Counter(), []).add({"thing": value}, "odd")


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


def test_close_writes_the_rest_and_closes_all_even_if_one_fails():
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
