import numpy as np
import pytest

from dreamerv2.common.envs.resize import AreaResize, overlaps


def area_mean(image, size):
    """Every output pixel by its definition, in float64: loops over the covered source pixels."""
    height, width = image.shape[:2]
    result = np.zeros((*size, image.shape[2]))
    for y in range(size[0]):
        top, bottom = y * height / size[0], (y + 1) * height / size[0]
        for x in range(size[1]):
            left, right = x * width / size[1], (x + 1) * width / size[1]
            for i in range(int(top), min(height, int(np.ceil(bottom)))):
                for j in range(int(left), min(width, int(np.ceil(right)))):
                    share = (min(bottom, i + 1) - max(top, i)) * (min(right, j + 1) - max(left, j))
                    result[y, x] += share * image[i, j]
    return result / (height * width / (size[0] * size[1]))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((210, 160, 1), (64, 64)),
        ((210, 160, 3), (64, 64)),
        ((250, 160, 1), (64, 64)),
        ((56, 56, 3), (64, 64)),
        ((10, 30, 2), (7, 5)),
        ((64, 48, 1), (96, 80)),
        ((5, 5, 4), (5, 3)),
        ((1, 1, 1), (3, 2)),
    ],
)
def test_equals_the_mean_over_the_covered_area(source, target):
    image = np.random.default_rng(0).integers(0, 256, source).astype(np.uint8)
    result = AreaResize(source, target)(image)
    assert result.dtype == np.uint8 and result.shape == (*target, source[2])
    assert np.abs(result - area_mean(image, target)).max() <= 0.5 + 1e-3, "beyond rounding"


def test_extreme_values_do_not_overflow():
    white = np.full((210, 160, 1), 255, np.uint8)
    assert (AreaResize((210, 160, 1), (64, 64))(white) == 255).all()


def test_overlaps_sum_to_one():
    for source, target in [(210, 64), (160, 64), (3, 7), (7, 3)]:
        assert np.allclose(overlaps(source, target).sum(1), 1)
