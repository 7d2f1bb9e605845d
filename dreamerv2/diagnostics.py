"""Numbers and pictures that show which part of an agent is still bad.

Frames are float32 [N, T, H, W, C] in [0, 1]. `valid`, bool [N, T], is false where a prediction has
no meaning.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy import ndarray as Array

MOVING = 0.01**2  # variance from which a pixel counts as moving: 2.5 of 255 grey levels
CLIP_REWARDS = {"identity": float, "sign": np.sign, "tanh": np.tanh}


def foreseeable(is_first: Array, context: int) -> Array:
    """Return where an open loop from row `context` can predict, [N, T]: until the next reset."""
    predicted = np.arange(is_first.shape[1]) >= context
    return np.cumsum(is_first & predicted, 1) == 0


def open_loop_video(truth: Array, model: Array, valid: Array) -> Array:
    """Return [T, 3*H, N*W, C]: truth, model and error (0.5 is none); grey where not valid."""
    frames = np.concatenate([truth, model, (model - truth + 1) / 2], 2)
    frames = np.where(valid[..., None, None, None], frames, np.float32(0.5))
    return np.concatenate(list(frames), 2)


def open_loop_errors(truth: Array, model: Array, valid: Array, context: int) -> dict[str, float]:
    """Error of the open loop over 5, 15 and all steps, relative to that of a standing picture.

        sum (model_t - truth_t)^2 / sum (truth_{context-1} - truth_t)^2,   t >= context

    1 is no better than the last frame seen, repeated. Nothing is returned where nothing moves.
    """
    valid, still = valid[:, context:, None, None, None], truth[:, context - 1 : context]
    truth, model = truth[:, context:], model[:, context:]
    error, standing = (np.sum((x - truth) ** 2 * valid, (0, 2, 3, 4)) for x in (model, still))
    spans = {"5": 5, "15": 15, "all": len(error)}
    return {k: error[:n].sum() / standing[:n].sum() for k, n in spans.items() if standing[:n].any()}


def unexplained(truth: Array, model: Array, valid: Array) -> Array:
    """Share of each pixel's variance that a model leaves unexplained, [H, W]; NaN if it is still.

    sum (model - truth)^2 / sum (truth - mean truth)^2   over valid rows and channels
    """
    if not valid.any():
        return np.full(truth.shape[2:4], np.nan)
    truth, model = truth[valid], model[valid]
    error, variance = ((model - truth) ** 2).mean(0).sum(-1), truth.var(0).sum(-1)
    return np.where(variance >= MOVING, error / np.maximum(variance, MOVING), np.nan)


def prediction_report(
    key: str, truth: Array, post: Array, model: Array, is_first: Array, context: int
) -> dict[str, Array | float]:
    """Compare the frames of an image key with those of the posterior and of the open loop.

    Returns: openl_{key}, a video of six sequences; openl_{key}_error_5, _15 and _all;
        unexplained_{key} [1, H, 2*W, 1], posterior left and open loop right, black where explained
        or still; unexplained_{key}_post and _openl, exceeded by a tenth of the moving pixels.
    """
    valid = foreseeable(is_first, context)
    result = {f"openl_{key}": open_loop_video(truth[:6], model[:6], valid[:6])}
    errors = open_loop_errors(truth, model, valid, context)
    result |= {f"openl_{key}_error_{steps}": error for steps, error in errors.items()}
    valid[:, :context] = False  # where the two are the same
    shares = {"post": unexplained(truth, post, valid), "openl": unexplained(truth, model, valid)}
    if not np.isnan(shares["post"]).all():
        worst = {name: np.nanquantile(share, 0.9) for name, share in shares.items()}
        result |= {f"unexplained_{key}_{name}": share for name, share in worst.items()}
    picture = np.concatenate([shares["post"], shares["openl"]], 1)[None, ..., None]
    return result | {f"unexplained_{key}": np.clip(np.nan_to_num(picture), 0, 1)}


def discounted_returns(rewards: list[float], discount: float, last: float) -> Array:
    """Return G_t = r_t + discount * G_{t+1} for each reward; `last` follows the last reward."""
    returns = [last]
    for reward in reversed(rewards):
        returns.append(reward + discount * returns[-1])
    return np.array(returns[:0:-1])


class Calibration:
    """Compares a policy's output `value` with the discounted return that followed.

    A callback of a driver that gets its actions from `policy`. The value of a row includes the
    row's own reward, clipped. After a time limit, the last value stands for the rewards to come.
    """

    def __init__(self, policy: Callable[..., tuple], discount: float, clip: str):
        self._policy, self._discount, self._clip = policy, discount, CLIP_REWARDS[clip]
        self._episodes: dict[int, tuple[list, list]] = {}  # values and rewards by environment
        self._pairs = [np.zeros((2, 0))]  # values and returns of each finished episode

    def policy(self, obs: Mapping[str, Array], state: Any) -> tuple:
        """Call the policy and remember its values."""
        outputs, state = self._policy(obs, state)
        self._values = outputs.get("value")
        return outputs, state

    def __call__(self, row: Mapping[str, Array], index: int) -> None:
        """Take a row of environment `index`, as the driver hands it on."""
        if row["is_first"]:
            self._episodes[index] = [], []
        values, rewards = self._episodes[index]
        rewards.append(float(self._clip(row["reward"])))
        if not row["is_first"] and self._values is not None:
            values.append(self._values[index])
        if row["is_last"] and values:
            cut, last = (None, 0.0) if row["is_terminal"] else (len(values) - 1, values[-1])
            returns = discounted_returns(rewards[:cut], self._discount, last)
            self._pairs.append(np.array([values[: len(returns)], returns[: len(values)]]))

    def metrics(self) -> dict[str, float]:
        """Return value, value_actual and value_error, the mean absolute difference."""
        values, returns = np.concatenate(self._pairs, 1)
        if not len(values):
            return {}
        error = np.abs(values - returns).mean()
        return {"value": values.mean(), "value_actual": returns.mean(), "value_error": error}
