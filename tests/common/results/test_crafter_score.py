import pytest

from dreamerv2.common.results.stats import crafter_score


def test_crafter_score_is_the_shifted_geometric_mean_of_success_rates():
    assert crafter_score([0, 3, 99]) == pytest.approx((1 * 4 * 100) ** (1 / 3) - 1)
    assert crafter_score([100] * 22) == pytest.approx(100)
    assert crafter_score([0] * 22) == 0
