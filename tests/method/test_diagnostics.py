"""Diagnostics against plain loops, and against cases whose answer is known."""

import numpy as np
import pytest

from dreamerv2 import diagnostics as diag

CONTEXT = 2


def frames(seed, shape=(3, 20, 4, 5, 2)):
    return np.random.default_rng(seed).random(shape, np.float32)


def resets(*places, shape=(3, 20)):
    is_first = np.zeros(shape, bool)
    is_first[:, 0] = True
    for place in places:
        is_first[place] = True
    return is_first


def test_errors_are_relative_to_the_last_frame_seen():
    truth, model = frames(0), frames(1)
    valid = diag.foreseeable(resets((0, 1), (1, 7)), CONTEXT)
    found = diag.open_loop_errors(truth, model, valid, CONTEXT)
    for name, steps in {"5": 5, "15": 15, "all": 18}.items():
        error = still = 0.0
        for n, t in np.ndindex(3, steps):
            if n != 1 or CONTEXT + t < 7:
                real = truth[n, CONTEXT + t].astype(float)
                error += ((model[n, CONTEXT + t] - real) ** 2).sum()
                still += ((truth[n, CONTEXT - 1] - real) ** 2).sum()
        assert found[name] == pytest.approx(error / still, rel=1e-5)


def test_a_standing_picture_has_error_one_and_the_truth_zero():
    truth = frames(0)
    still = np.repeat(truth[:, CONTEXT - 1 : CONTEXT], 20, 1)
    valid = diag.foreseeable(resets(), CONTEXT)
    assert diag.open_loop_errors(truth, still, valid, CONTEXT) == {"5": 1, "15": 1, "all": 1}
    assert diag.open_loop_errors(truth, truth, valid, CONTEXT) == {"5": 0, "15": 0, "all": 0}
    assert diag.open_loop_errors(still, truth, valid, CONTEXT) == {}, "nothing moves"


def test_share_of_the_variance_that_stays_unexplained():
    truth, model, valid = frames(0), frames(1), frames(2, (3, 20)) > 0.4
    truth[..., 1, 1, :] = 0.3  # a still pixel
    share = diag.unexplained(truth, model, valid)
    for h, w in np.ndindex(4, 5):
        real, guess = (x[valid][:, h, w].astype(float) for x in (truth, model))
        total = ((real - real.mean(0)) ** 2).sum()
        expected = ((guess - real) ** 2).sum() / total if (h, w) != (1, 1) else np.nan
        assert share[h, w] == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert np.isnan(diag.unexplained(truth, model, np.zeros_like(valid))).all(), "no row to see"


def test_the_report_shows_a_blind_spot_of_the_open_loop():
    truth = frames(0, (8, 20, 10, 10, 1))
    truth[..., 5:, :, :] = 0  # half of the pixels stand still
    model = truth.copy()
    model[:, CONTEXT:, 3, 4:] = 0.5  # 6 pixels, more than a tenth of those that move
    report = diag.prediction_report("view", truth, truth, model, resets(shape=(8, 20)), CONTEXT)
    assert report["openl_view"].shape == (20, 30, 60, 1), "six of the eight sequences"
    picture = report["unexplained_view"]
    assert picture.shape == (1, 10, 20, 1) and picture.sum() == picture[0, 3, 14:].sum()
    assert picture[0, 3, 14:] == pytest.approx(1, abs=0.05)
    assert report["unexplained_view_post"] == 0
    assert report["unexplained_view_openl"] == pytest.approx(1, abs=0.05)
    assert {"openl_view_error_5", "openl_view_error_15", "openl_view_error_all"} < report.keys()


def test_a_still_image_has_pictures_and_no_numbers():
    truth = np.full((2, 6, 4, 4, 3), 0.2, np.float32)
    report = diag.prediction_report("x", truth, truth, truth, resets(shape=(2, 6)), CONTEXT)
    assert report.keys() == {"openl_x", "unexplained_x"} and not report["unexplained_x"].any()


# --- calibration ---


def rows_of(rewards, terminal):
    last = len(rewards) - 1
    for t, reward in enumerate(rewards):
        flags = {"is_first": t == 0, "is_last": t == last, "is_terminal": t == last and terminal}
        yield {"reward": np.float32(reward), **flags}


def play(calibration, rewards, terminal):
    """Play in environment 1, as a driver does: the policy sees every row but the last."""
    for row in rows_of(rewards, terminal):
        calibration(row, 1)
        if not row["is_last"]:
            calibration.policy({}, None)


@pytest.mark.parametrize(("terminal", "actual"), [(True, [2, 4, 4]), (False, [2.5, 5])])
def test_values_are_compared_with_the_returns_that_followed(terminal, actual):
    """V_t includes r_t; behind a time limit the last value, 6, is all that is known."""
    values = iter([1.0, 5.0, 6.0])
    policy = lambda obs, state: ({"value": np.array([99, next(values)])}, state)  # noqa: E731
    calibration = diag.Calibration(policy, 0.5, "identity")
    assert calibration.metrics() == {}
    play(calibration, [0.0, 2.0, 0.0, 8.0], terminal)
    predicted = [1, 5, 6][: len(actual)]
    assert calibration.metrics() == {
        "value": np.mean(predicted),
        "value_actual": np.mean(actual),
        "value_error": np.abs(np.subtract(predicted, actual)).mean(),
    }


def test_rewards_are_clipped_as_the_model_sees_them():
    calibration = diag.Calibration(lambda obs, state: ({"value": [0, 0]}, state), 1.0, "tanh")
    play(calibration, [0.0, 30.0], True)
    assert calibration.metrics()["value_actual"] == pytest.approx(1)


def test_a_policy_without_values_is_not_checked():
    calibration = diag.Calibration(lambda obs, state: ({}, state), 0.9, "sign")
    play(calibration, [0.0, 1.0], True)
    assert calibration.metrics() == {}
