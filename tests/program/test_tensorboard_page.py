"""What a person sees: the real `tensorboard` serves our event files to a real browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pytest

from dreamerv2.common.logger.logger import Logger
from dreamerv2.common.logger.tensorboard import TensorBoardOutput
from dreamerv2.common.run.when import Counter

RUN = "atari_pong/dreamerv2/1"
FOLDER = Path(sys.executable).parent
TENSORBOARD = shutil.which("tensorboard", path=f"{FOLDER}{os.pathsep}{os.environ.get('PATH', '')}")
SIZE = (24, 32)  # of the video, height and width
COLORS = [[250, 10, 20], [20, 240, 30], [10, 30, 230]]  # of its thirds, from above

pytestmark = pytest.mark.skipif(not browser.find(), reason="there is no Chromium to look with")


def write_run(logdir: Path) -> None:
    """Log what a training logs, by the classes that it logs with."""
    counter = Counter()
    logger = Logger(counter, [TensorBoardOutput(logdir, start_step=0)], multiplier=4)
    clip = np.zeros((5, *SIZE, 3), np.uint8)
    for third, color in enumerate(COLORS):
        clip[:, 8 * third : 8 * third + 8] = color
    logger.text("config", "task: atari_pong\nrssm.hidden: 600")
    for _ in range(10):
        counter.increment(250)
        logger.scalar("train_return", -21.0 + counter.value / 1000)
        logger.scalar("model_loss", 5000 / counter.value)
        logger.video("eval_openl_image", clip)
        logger.write()
    logger.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a TensorBoard, started as the README says, on a free port of this machine."""
    logdir = tmp_path_factory.mktemp("logdir")
    write_run(logdir / RUN)
    command = [TENSORBOARD, "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if address := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        assert address, f"tensorboard does not start:\n{''.join(said)}"
        yield address[0]
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.Browser(browser.find(), tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


def wait_for_words(page, *words):
    """Wait until the page shows each of the words on a line of its own."""

    def missing():
        return set(words) - set(page.text().splitlines())

    page.wait_for(lambda: not missing(), f"{words}")


def test_the_time_series_show_this_run(page, address):
    page.open(f"{address}#timeseries")
    wait_for_words(page, RUN, "train_return", "model_loss", "eval_openl_image")
    page.wait_for(lambda: "10,000" in page.text(), "the last step, in frames")


def test_the_scalars_tab_shows_this_run(page, address):
    page.open(f"{address}#scalars")
    wait_for_words(page, RUN, "train_return", "model_loss")


def test_the_images_tab_shows_the_video(page, address):
    page.open(f"{address}#images")
    wait_for_words(page, RUN, "eval_openl_image")
    (picture,) = page.wait_for(page.images, "a picture")
    assert (picture["height"], picture["width"]) == SIZE
    np.testing.assert_allclose(picture["column"], np.repeat(COLORS, 8, axis=0), atol=2)


def test_the_text_tab_shows_the_config_line_by_line(page, address):
    page.open(f"{address}#text")
    page.wait_for(lambda: "rssm.hidden: 600" in page.text(), "the config")
    assert "task: atari_pong" in page.text().splitlines(), "the config lost its line breaks"
