import functools

import numpy as np
import pytest
import tensorflow as tf
from numpy_model import model_loss, preprocess
from numpy_rssm import NumpyRSSM
from small_models import (
    GAUSSIAN,
    LAYER_NORM,
    SHAPES,
    VECTORS,
    assert_close,
    in_types,
    make_batch,
    make_model,
    numpy_of,
    random_start,
    small_config,
    tensors_of,
    weights_of,
)

from dreamerv2.agent import Agent
from dreamerv2.common.errors import UserError
from dreamerv2.common.nn.variables import named_variables
from dreamerv2.diagnostics import foreseeable, open_loop_video
from dreamerv2.world_model import is_trained

SEED = tf.constant([1, 2], tf.int32)
VARIANTS = {
    "defaults": {},
    "layer norm": LAYER_NORM,
    "Gaussian": GAUSSIAN,
    "ensemble": {"rssm.ensemble": 3},
    "scales": {"loss_scales": {"kl": 0.1, "reward": 2.0, "discount": 5.0, "proprio": 0.5}},
    "own scales": {"loss_scales": {"image": 0.3, "speed": 7.0, "proprio": 0.5}},
    "plain KL": {"kl": {"balance": 0.5, "free": 0.7}},
    "free nats": {"kl": {"free": 1.0, "free_avg": False, "forward": True}},
    "no discount": {"pred_discount": False, "grad_heads": ["decoder", "reward"]},
    "sign": {"clip_rewards": "sign", "discount": 0.9},
    "images only": {r".*coder\.mlp_keys": "$^"},
    "vectors only": {r".*coder\.cnn_keys": "$^"},
}


@functools.cache
def case(variant, dtype="float64", batch=3, length=5):
    """Config, actual and expected results of the loss on one batch."""
    config = small_config(VARIANTS[variant])
    model, raw = make_model(config, dtype, SHAPES), make_batch(SHAPES, batch, length)
    shapes = {key: shape or (1,) for key, shape in SHAPES.items()}
    data, start = model.preprocess(tensors_of(raw)), random_start(model, batch)
    noise = model.noise(batch, length, SEED)
    actual = model.loss(data, start, noise)
    arrays = preprocess(raw, SHAPES, config)
    expected = model_loss(weights_of(model), arrays, shapes, config, *numpy_of((noise, start)))
    return config, actual, expected


@in_types(VARIANTS, "defaults", "Gaussian", "layer norm")
def test_the_whole_model_loss(variant, dtype):
    config, (total, post, outputs, metrics), expected = case(variant, dtype)
    for key, value in expected["losses"].items():
        assert_close(metrics[f"{key}_loss"], value, f"{key} loss")
    assert_close(total, expected["total"], "scaled sum of all losses")
    for key in ("deter", "stoch"):
        assert_close(post[key], expected["post"][key], f"posterior {key}")
    rssm = NumpyRSSM({}, config.rssm)
    assert_close(outputs["kl_loss"], expected["kl"], "KL per state")
    assert_close(metrics["model_kl"], expected["kl"].mean(), "mean KL")
    assert_close(metrics["prior_ent"], rssm.entropy(expected["prior"]).mean(), "prior entropy")
    assert_close(metrics["post_ent"], rssm.entropy(expected["post"]).mean(), "posterior entropy")
    assert set(outputs) == {"embed"} | {f"{key}_loss" for key in expected["losses"]}


def test_a_scale_that_scales_nothing_is_refused():
    config = small_config({"loss_scales": {"positon": 2.0}})
    with pytest.raises(UserError, match="Did you mean 'position'"):
        make_model(config, shapes=VECTORS)


def test_a_head_that_is_none_is_refused():
    """With or without a discount head: its name is in the defaults."""
    with pytest.raises(UserError, match="heads are decoder, reward, discount.*'decoder'"):
        make_model(small_config({"grad_heads": ["decodr"]}), shapes=VECTORS)
    make_model(small_config({"pred_discount": False}), shapes=VECTORS)


def test_mean_squared_error_of_images():
    _, (_, _, _, metrics), _ = case("defaults")
    for key, size in (("image", 144), ("wide", 288)):
        constant = size / 2 * np.log(2 * np.pi)
        error = (float(metrics[f"{key}_loss"]) - constant) * 2 / size
        assert_close(metrics[f"{key}_mse"], error, f"NLL of {key} without its constant")


# --- preprocess ---


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("clip", ["tanh", "sign", "identity"])
def test_preprocess(clip, dtype):
    config = small_config({"clip_rewards": clip, "discount": 0.95})
    model, raw = make_model(config, dtype), make_batch()
    raw["reward"][0, 0] = 0
    data, expected = model.preprocess(tensors_of(raw)), preprocess(raw, SHAPES, config)
    for key in expected:
        if key not in ("is_first", "is_last", "is_terminal", "action"):
            assert_close(data[key], expected[key], key)
    assert data["speed"].shape == (3, 5, 1), "scalars gain an axis"
    assert np.abs(data["image"]).max() <= 0.5 and np.min(data["image"]) < -0.4
    terminal = raw["is_terminal"]
    assert np.allclose(data["discount"], np.where(terminal, 0, 0.95)), "target of the discount head"
    assert data["is_first"].dtype == bool and raw["image"].dtype == np.uint8, "input was changed"


def test_integer_vectors_and_flags_are_read_as_numbers():
    model = make_model(small_config(), shapes={"count": (2,), "flag": ()})
    obs = {"count": np.array([[3, 200]], np.uint8), "flag": np.array([True])}
    data = model.preprocess(tensors_of(obs | {"is_first": np.array([True])}))
    assert data["count"].numpy().tolist() == [[3, 200]] and data["flag"].numpy().tolist() == [[1]]


def test_observations_that_are_trained_on():
    keys = ("image", "action", "reward", "is_first", "is_last", "is_terminal", "log_x", "logs")
    assert [key for key in keys if is_trained(key)] == ["image", "logs"]
    model = make_model(small_config(), shapes={**VECTORS, "log_secret": (2,), "reward": ()})
    assert set(model.shapes) == set(VECTORS)


def test_images_of_different_sizes_and_no_observations_are_refused():
    config = small_config()
    with pytest.raises(UserError, match="Images must share one size"):
        make_model(config, shapes={"a": (12, 12, 1), "b": (10, 12, 1)})
    with pytest.raises(UserError, match="No observation is left"):
        make_model(config.update({r".*coder\.mlp_keys": "$^"}), shapes=VECTORS)


def test_an_observation_called_like_a_layer_has_weights_of_its_own():
    shapes = {"image": (12, 12, 1), "dense": (3,), "conv0": (2,), "mlp": (1,)}
    model = make_model(small_config(), shapes=shapes)
    assert len(named_variables(model)) == len(model.variables), "a checkpoint would lack some"


def test_without_images_no_layer_is_called_like_it():
    model = make_model(small_config(), shapes={"dense": (3,)})
    assert "world_model/decoder/dense/kernel" in named_variables(model), "as in older checkpoints"


def test_variables_of_one_name_are_refused_before_anything_is_learned():
    with pytest.raises(UserError, match="decoder/mlp/dense0/.*rename the observation"):
        Agent(small_config(), {"mlp/dense0": (3,)}, 3, True)


def test_observations_that_are_not_predicted_are_reported(capsys):
    make_model(small_config({"decoder.mlp_keys": "spede", "encoder.cnn_keys": "image"}))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Not read, by --encoder.cnn_keys and --encoder.mlp_keys: wide.",
        "Not predicted, by --decoder.cnn_keys and --decoder.mlp_keys: position, speed.",
    ]


def test_a_reward_that_is_binary_has_a_slope():
    model = make_model(small_config({"reward_head.dist": "binary"}))
    feat = tf.random.stateless_normal((5, 4, model.rssm.feat_size), SEED, dtype=tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(feat)
        reward = model.imagined_reward({"feat": feat})
    assert np.all((reward > 0) & (reward < 1))
    assert np.abs(tape.gradient(reward, feat)[:-1]).min() > 0


# --- open-loop video ---


@pytest.mark.parametrize("variant", ["defaults", "Gaussian", "ensemble"])
def test_open_loop_video(variant):
    """Rows truth, model, error; from frame `context` on the model sees only actions, and where
    another sequence of the batch row begins then, all is grey."""
    config = small_config(VARIANTS[variant])
    model, raw = make_model(config), make_batch(length=7)
    data, context = model.preprocess(tensors_of(raw)), 3
    noise = model.noise(3, 7, SEED)
    valid = foreseeable(raw["is_first"], context)
    truth, post, open_loop = map(np.asarray, model.predict(data, context, noise)["image"])
    video = open_loop_video(truth, open_loop, valid)
    assert video.shape == (7, 36, 36, 1)
    expected = numpy_video(model, config, raw, numpy_of(noise), context)
    assert_close(video, expected, "video")
    blind = dict(
        data, image=tf.concat([data["image"][:, :context], data["image"][:, context:] * 0], 1)
    )
    _, other, same = map(np.asarray, model.predict(blind, context, noise)["image"])
    assert np.array_equal(open_loop, same), "the model saw a frame to be predicted"
    assert np.array_equal(post[:, :context], open_loop[:, :context])
    assert not np.array_equal(post[:, context:], other[:, context:]), "the posterior is blind"


def numpy_video(model, config, raw, noise, context):
    """[T, 3*H, N*W, C] for the key image."""
    from numpy_layers import decoder, encoder

    weights, data = weights_of(model), preprocess(raw, SHAPES, config)
    shapes = {key: shape or (1,) for key, shape in SHAPES.items()}
    embed = encoder(weights, "world_model/encoder", data, shapes, config.encoder)
    rssm, columns = NumpyRSSM(weights, config.rssm), []
    for b in range(len(embed)):
        state, frames = rssm.initial(), []
        for t in range(embed.shape[1]):
            action, pick = data["action"][b, t], noise["ensemble"][t]
            if t < context:
                u, first = noise["post"][b, t], data["is_first"][b, t]
                state, _ = rssm.obs_step(state, action, embed[b, t], first, u, pick)
            else:
                state = rssm.img_step(state, action, noise["prior"][b, t], pick)
            mean = decoder(weights, "world_model/decoder", rssm.feat(state), shapes, config.decoder)
            guess = np.clip(mean["image"] + 0.5, 0, 1)
            truth = raw["image"][b, t] / 255
            frame = np.concatenate([truth, guess, (guess - truth + 1) / 2], 0)
            over = data["is_first"][b, context : t + 1].any()  # another sequence, not foreseen
            frames.append(np.full_like(frame, 0.5) if over else frame)
        columns.append(frames)
    return np.concatenate(columns, axis=2)


def test_short_sequences_keep_one_frame_to_predict():
    agent = Agent(small_config(), SHAPES, 3, True)
    assert agent.report(make_batch(length=3))["openl_wide"].shape == (3, 36, 36, 2)
