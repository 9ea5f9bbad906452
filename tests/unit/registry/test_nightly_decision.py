"""On which nights the gate runs again about a challenger in the shadow."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.integration.registry.conftest import make_spec

from nightshift.contracts.partitions import Partition
from nightshift.registry.streams import nightly_decision
from nightshift.registry.streams.nights import StreamEvidence
from nightshift.training.statistics.sequential_test import sequential_result

NIGHT = Partition(dt.date(2020, 6, 1))
SPEC = make_spec()
"""Its champions are old from 28 days on; 28 nights make a stream."""


def is_due(age: int, n_nights: int, gain: float, noise: float = 0.01) -> bool:
    """Return whether a night is due whose champion has an age, and lost so many nights."""
    gains = gain + noise * np.tile([1.0, -1.0], n_nights)[:n_nights]
    result = sequential_result(gains, SPEC.promotion.superiority_probability)
    evidence = StreamEvidence(NIGHT, "trained", NIGHT.shift(-90).day, result, n_nights, gain)
    champion: Any = SimpleNamespace(partition_date=NIGHT.shift(-age).day)
    return nightly_decision.is_due(SPEC, NIGHT, champion, evidence)


def test_a_proof_is_due_at_any_age() -> None:
    assert is_due(age=20, n_nights=20, gain=0.02)
    assert not is_due(age=20, n_nights=20, gain=0.0)


def test_an_old_champion_is_compared_with_a_holdout_once_in_its_interval() -> None:
    due = [age for age in range(90) if is_due(age, n_nights=5, gain=0.0)]
    assert due == [28, 56, 84]


@pytest.mark.parametrize(("gain", "is_expected"), [(0.0001, True), (-0.0001, False)])
def test_an_old_champion_meets_a_stream_that_gains_every_night(
    gain: float, is_expected: bool
) -> None:
    assert is_due(age=40, n_nights=30, gain=gain, noise=0.05) is is_expected
    assert not is_due(age=27, n_nights=30, gain=gain, noise=0.05)
