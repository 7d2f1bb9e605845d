"""Mistakes with environments and run directories of one's own get one sentence."""

import threading

import gymnasium
import numpy as np
import pytest
from small_models import SMALL, make_model, tensors_of

import dreamerv2.api as dv2
from dreamerv2 import rundir, train, validation
from dreamerv2.common.config.config import Config
from dreamerv2.common.envs import convert, gym
from dreamerv2.common.errors import UserError

BOX = gymnasium.spaces.Box(-1, 1, (2,))


class Plain(gymnasium.Env):
    """An environment that nobody steps."""

    observation_space, action_space = BOX, gymnasium.spaces.Discrete(2)


def test_integer_observation_keys_are_named():
    env = Plain()
    env.observation_space = gymnasium.spaces.Dict({0: BOX, 1: BOX})
    with pytest.raises(UserError, match="The observation key 0 is not text: .* such as '0'"):
        convert.DictObs(env)


def test_a_function_that_cannot_be_sent_to_a_worker_is_refused(tmp_path):
    lock = threading.Lock()

    def make():
        return lock and Plain()

    changes = {"logdir": str(tmp_path / "run"), "envs_parallel": "process"}
    with pytest.raises(UserError, match="cannot be sent to a worker process .*lock"):
        dv2.train(make, changes)
    assert list(tmp_path.iterdir()) == [], "a refused run left something behind"


def test_the_spaces_of_crafter_itself_point_to_its_task():
    crafter = pytest.importorskip("crafter")
    with pytest.raises(UserError, match="the task crafter_reward"):
        gym.convert_space(crafter.Env().observation_space)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_checkpoint_of_the_release_is_named(mode, tmp_path):
    (tmp_path / "variables.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    config = dv2.defaults.update({"logdir": str(tmp_path), "mode": mode})
    with pytest.raises(UserError, match=r"variables.pkl is a checkpoint of the 2021 release"):
        train.prepare(config, []) if mode == "train" else rundir.find_run(config)
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (96, 96), (64, 96), (40, 30)])
def test_the_default_kernels_encode_and_draw_images_of_any_size(size):
    kernels = {"encoder.cnn_kernels": [4] * 4, "decoder.cnn_kernels": [5, 5, 6, 6]}
    config = dv2.defaults.update(SMALL).update({**kernels, "render_size": size})
    config = validation.validate(Config(config))
    model = make_model(config, "float32", {"image": (*size, 3)})
    shapes = {"image": (2, *size, 3), "feat": (2, model.rssm.feat_size)}
    batch = tensors_of({key: np.zeros(shape, np.float32) for key, shape in shapes.items()})
    assert model.encoder(batch).shape == (2, model.encoder.size)
    assert model.heads["decoder"](batch["feat"])["image"].mean.shape == shapes["image"]
