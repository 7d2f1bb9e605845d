"""Layers and networks in NumPy, float64, from their equations.

`weights` maps variable names to arrays. x has any leading dimensions unless said otherwise.
"""

import re

import numpy as np
from scipy.special import expit


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


ACTIVATIONS = {
    "elu": elu,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "none": lambda x: x,
    "silu": lambda x: x * expit(x),
}


def dense(weights, path, x):
    return x @ weights[f"{path}/kernel"] + weights[f"{path}/bias"]


def layer_norm(weights, path, x):
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered**2).mean(-1, keepdims=True)
    normed = centered / np.sqrt(variance + 1e-3)
    return normed * weights[f"{path}/scale"] + weights[f"{path}/offset"]


def norm_act(weights, path, x, config):
    if config.norm == "layer":
        x = layer_norm(weights, f"{path}/norm", x)
    return ACTIVATIONS[config.act](x)


def hidden(weights, path, x, config):
    return norm_act(weights, path, dense(weights, path, x), config)


def mlp(weights, path, x, layers, config):
    for i in range(layers):
        x = hidden(weights, f"{path}/dense{i}", x, config)
    return x


def gru(weights, path, x, h):
    """One step; reset, candidate and update are the thirds of one normalized product."""
    parts = dense(weights, path, np.concatenate([x, h], -1))
    reset, candidate, update = np.split(layer_norm(weights, f"{path}/norm", parts), 3, -1)
    candidate = np.tanh(expit(reset) * candidate)
    update = expit(update - 1)
    return update * candidate + (1 - update) * h


def conv(x, kernel, bias):
    """Stride 2, VALID: x [H, W, inputs], kernel [k, k, inputs, depth]; output pixel by pixel."""
    size = kernel.shape[0]
    height, width = ((n - size) // 2 + 1 for n in x.shape[:2])
    y = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[2 * i : 2 * i + size, 2 * j : 2 * j + size]
            y[i, j] = np.tensordot(window, kernel, 3) + bias
    return y


def conv_transpose(x, kernel, bias):
    """Stride 2, VALID: x [H, W, inputs], kernel [k, k, depth, inputs]; every pixel paints k x k."""
    size, _, depth, _ = kernel.shape
    height, width = (2 * (n - 1) + size for n in x.shape[:2])
    y = np.zeros((height, width, depth)) + bias
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[2 * i : 2 * i + size, 2 * j : 2 * j + size] += kernel @ x[i, j]
    return y


def over_images(function, x, *args):
    """Apply a function of one image to x [..., H, W, C]."""
    flat = [function(image, *args) for image in x.reshape(-1, *x.shape[-3:])]
    return np.reshape(flat, (*x.shape[:-3], *flat[0].shape))


def images_of(shapes, config):
    return [k for k, s in shapes.items() if len(s) == 3 and re.match(config.cnn_keys, k)]


def vectors_of(shapes, config):
    return [k for k, s in shapes.items() if len(s) == 1 and re.match(config.mlp_keys, k)]


def encoder(weights, path, obs, shapes, config):
    parts = []
    if images := images_of(shapes, config):
        x = np.concatenate([obs[key] for key in images], -1)
        for i in range(len(config.cnn_kernels)):
            part = f"{path}/conv{i}"
            x = over_images(conv, x, weights[f"{part}/kernel"], weights[f"{part}/bias"])
            x = norm_act(weights, part, x, config)
        parts.append(x.reshape(*x.shape[:-3], -1))
    if vectors := vectors_of(shapes, config):
        x = np.concatenate([obs[key] for key in vectors], -1)
        parts.append(mlp(weights, f"{path}/mlp", x, len(config.mlp_layers), config))
    return np.concatenate(parts, -1)


def decoder(weights, path, feat, shapes, config):
    """Means of the observations by key."""
    means = {}
    if images := images_of(shapes, config):
        x = dense(weights, f"{path}/dense", feat)[..., None, None, :]
        last = len(config.cnn_kernels) - 1
        for i in range(last + 1):
            part = f"{path}/conv{i}"
            x = over_images(conv_transpose, x, weights[f"{part}/kernel"], weights[f"{part}/bias"])
            x = x if i == last else norm_act(weights, part, x, config)
        ends = np.cumsum([shapes[key][2] for key in images])[:-1]
        means |= dict(zip(images, np.split(x, ends, -1), strict=True))
    if vectors := vectors_of(shapes, config):
        x = mlp(weights, f"{path}/mlp", feat, len(config.mlp_layers), config)
        means |= {key: dense(weights, f"{path}/{key}", x) for key in vectors}
    return means


def head(weights, path, feat, config, out="out"):
    """Output of a head's layer, [..., units of the layer]."""
    return dense(weights, f"{path}/{out}", mlp(weights, path, feat, config.layers, config))


def number(weights, path, feat, config):
    """Output of a head for a single number, [...]."""
    return head(weights, path, feat, config)[..., 0]
