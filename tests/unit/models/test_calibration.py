from __future__ import annotations

import json

import numpy as np
import pytest

from nightshift.models.calibration import apply_calibration, fit_calibration, sigmoid


@pytest.fixture(scope="module")
def overconfident():
    random = np.random.default_rng(5)
    truth = random.normal(size=20_000) - 1
    return 2 * truth + 1, (random.random(20_000) < sigmoid(truth)).astype(float)


def test_platt_finds_slope_and_intercept(overconfident):
    found = fit_calibration("platt", *overconfident)
    assert found["slope"] == pytest.approx(0.5, abs=0.03)
    assert found["intercept"] == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_mean_probability_is_the_rate_and_order_is_kept(overconfident, method):
    raw, label = overconfident
    calibration = json.loads(json.dumps(fit_calibration(method, raw, label)))
    probability = apply_calibration(calibration, raw)
    assert probability.mean() == pytest.approx(label.mean(), abs=0.001)
    assert (np.diff(probability[np.argsort(raw)]) >= 0).all()


@pytest.mark.parametrize("method", ["platt", "isotonic", "none"])
def test_probability_stays_off_zero_and_one(overconfident, method):
    probability = apply_calibration(
        fit_calibration(method, *overconfident), np.array([-1e9, -800.0, 0.0, 800.0, 1e9])
    )
    assert probability.min() >= 1e-6
    assert probability.max() <= 1 - 1e-6


def test_falling_curve_is_not_used(overconfident):
    raw, label = overconfident
    assert fit_calibration("platt", -raw, label) == {"method": "none"}
