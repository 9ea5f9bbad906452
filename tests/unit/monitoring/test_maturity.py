from __future__ import annotations

import pytest

from nightshift.contracts.model_spec import load_spec
from nightshift.monitoring.outcomes import LabelCount
from nightshift.settings import PROJECT_ROOT

SPEC = load_spec(PROJECT_ROOT / "dags" / "models", "flight_delayed")


@pytest.mark.parametrize(
    ("count", "share", "maturity"),
    [
        (LabelCount(), None, "immature"),
        (LabelCount(100, 0, 0), 0.0, "immature"),
        (LabelCount(100, 0, 100), None, "immature"),
        (LabelCount(100, 89, 0), 0.89, "maturing"),
        (LabelCount(100, 90, 0), 0.9, "mature"),
        (LabelCount(100, 45, 50), 0.9, "mature"),
    ],
)
def test_maturity_follows_the_share_of_the_labels_that_can_come(
    count: LabelCount, share: float | None, maturity: str
) -> None:
    assert (count.share, count.maturity(SPEC)) == (share, maturity)
