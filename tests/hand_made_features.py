"""Feature views of tests that no dbt project knows: their rows cannot be rebuilt from raw rows.

The gate refuses such a challenger. Tests of everything else in the gate use this fixture; the
check itself has tests of its own, on views that dbt has built.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nightshift.registry import promotion_gate
from nightshift.registry.checks import Criterion, passed_if


def _passed(_: object) -> Criterion:
    return passed_if(True, "point_in_time", 0, 0, "The features were made by hand.")


@pytest.fixture(scope="session", autouse=True)
def hand_made_features() -> Iterator[None]:
    """Let the gate take features that were made by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(promotion_gate.CHECKS, "point_in_time", _passed)
        yield
