"""Which entities are in a canary: a share of them, the same ones for ever, others by model."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.registry.canary.membership import in_canary

KEYS = [f"2013-06-{1 + i % 30:02d}_UA_{i}_EWR" for i in range(40_000)]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_share_of_the_entities_is_the_share(share: float) -> None:
    n = int(in_canary("flight_delayed", share, KEYS).sum())
    # Four standard deviations of a fair draw.
    slack = 4 * (len(KEYS) * share * (1 - share)) ** 0.5
    assert abs(n - share * len(KEYS)) < slack


def test_hash_is_uniform_within_any_part_of_the_keys() -> None:
    mask = in_canary("flight_delayed", 0.2, KEYS)
    shares = mask.reshape(40, 1000).mean(axis=1)
    chi_squared = float(((shares - 0.2) ** 2 / (0.2 * 0.8 / 1000)).sum())
    assert chi_squared < 80, "the 99.98th percentile of 40 degrees of freedom"


def test_larger_share_keeps_every_entity_of_a_smaller_one() -> None:
    small, large = in_canary("m", 0.05, KEYS), in_canary("m", 0.1, KEYS)
    assert small.any()
    assert not (small & ~large).any()


def test_another_model_has_other_entities() -> None:
    one, other = in_canary("flight_delayed", 0.1, KEYS), in_canary("visitors", 0.1, KEYS)
    assert abs(float((one & other).mean()) - 0.01) < 0.003


def test_entities_are_those_of_every_release() -> None:
    """A changed hash would give running canaries other entities in the middle of their nights."""
    keys = [f"k{i}" for i in range(20)]
    inside = [key for key, is_in in zip(keys, in_canary("m", 0.3, keys), strict=True) if is_in]
    assert inside == ["k0", "k1", "k3", "k4", "k5", "k7", "k8", "k14", "k17"]


def test_nothing_is_in_a_share_of_nothing() -> None:
    assert not in_canary("m", 0.0, KEYS).any()
    assert in_canary("m", 0.5, []).shape == (0,)
    assert in_canary("m", 0.5, ["ö", "日本"]).dtype == np.bool_
