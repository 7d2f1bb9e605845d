"""Finished episodes are logged in bounded memory, whatever their length and their keys."""

import numpy as np
import pytest
from logs import Memory

from dreamerv2.common.logger import Logger, episodes
from dreamerv2.common.logger.episodes import EpisodeLog
from dreamerv2.common.run.when import Counter


def make_log(video=("image",), every=1, more=dict, **keys):
    """Return an episode log for training and the output of its logger."""
    output, step = Memory(), Counter(0)
    keys = {"sum": "^$", "mean": "^$", "max": "^$", "video": list(video), **keys}
    return EpisodeLog("train", Logger(step, [output], 4), step, every, keys, more), output


def play(log, episode, index=0):
    """Hand on the rows of an episode, key -> [T+1, ...]."""
    last = len(episode["reward"]) - 1
    for t in range(last + 1):
        flags = {"is_first": t == 0, "is_last": t == last}
        log({k: x[t] for k, x in episode.items()} | flags, index)


def pictures(length, *keys):
    return {"reward": np.ones(length)} | {k: np.zeros((length, 4, 4, 1), np.uint8) for k in keys}


def videos(output):
    return {x.name: len(x.value) for _, write in output.writes for x in write if x.kind == "video"}


def test_entries_of_an_episode_are_reduced_as_the_options_say():
    """The sum is that of all elements, the maximum the mean of every element's maximum."""
    chosen = dict.fromkeys(("sum", "mean", "max"), "^vector$")
    log, output = make_log(more=lambda: {"total_steps": 7}, **chosen)
    play(log, {"reward": np.ones(3), "vector": np.array([[1, 2], [3, 4], [5, 0]])})
    logged = {name: value for _, name, value in output.writes[0][1]}
    assert logged["sum_train_vector"] == 15 and logged["mean_train_vector"] == 2.5
    assert logged["max_train_vector"] == 4.5 and logged["train_total_steps"] == 7
    assert logged["train_return"] == 3 and logged["train_length"] == 2
    assert log.latest == {"train_return": 3}


def test_episodes_of_several_environments_are_kept_apart():
    log, output = make_log()
    for t in range(3):
        for index in range(2):
            flags = {"is_first": t == 0, "is_last": t == 2}
            log({"reward": np.float32(t * (index + 1)), **flags}, index)
    returns = [value for _, write in output.writes for _, name, value in write if "return" in name]
    assert returns == [3, 6]


def test_videos_are_bounded_in_frames_and_in_bytes(monkeypatch):
    monkeypatch.setattr(episodes, "MAX_FRAMES", 5)
    log, output = make_log()
    play(log, pictures(9, "image"))
    assert videos(output) == {"train_policy_image": 5}
    monkeypatch.setattr(episodes, "MAX_BYTES", 32)
    log, output = make_log()
    play(log, pictures(9, "image"))
    assert videos(output) == {"train_policy_image": 3}, "two frames of 16 bytes, and one"


@pytest.mark.parametrize(
    "option, keys, filmed",
    [
        (["image"], ["image", "depth"], ["image"]),
        (["image"], ["camera", "depth"], ["camera", "depth"]),
        (["depth"], ["image", "depth"], ["depth"]),
        (["image", "depth"], ["depth"], ["depth"]),
        (["image"], [], []),
        ([], ["image"], []),
    ],
)
def test_images_of_any_name_are_filmed(option, keys, filmed):
    log, output = make_log(option)
    play(log, pictures(4, *keys))
    assert [*videos(output)] == [f"train_policy_{key}" for key in filmed]


def test_chosen_key_that_is_no_image_is_reported_once(capsys):
    log, output = make_log(["image", "imgae"])
    for _ in range(2):
        play(log, pictures(3, "image"))
    assert capsys.readouterr().out.count("--log_keys_video imgae is no image; there are image") == 1


def test_videos_come_at_their_interval_and_from_environment_0():
    log, output = make_log(every=10)
    for _ in range(4):
        play(log, pictures(3, "image"), index=1)
        play(log, pictures(6, "image"), index=0)
        log._step.increment(5)
    kinds = [[x.kind for x in write].count("video") for _, write in output.writes]
    assert kinds == [0, 1, 0, 0, 0, 1, 0, 0]
    log, output = make_log(every=0)
    play(log, pictures(3, "image"))
    assert not videos(output)
