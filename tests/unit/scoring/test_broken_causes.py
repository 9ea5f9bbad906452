"""Causes explain a prediction, and break none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.integration.scoring.conftest import make_spec, tiny_model

from nightshift.contracts.scoring_spec import Cause
from nightshift.scoring import scorer as scorer_module
from nightshift.scoring.scorer import Scorer

ROWS = pa.table(
    {
        "weight_kg": np.linspace(0.0, 15.0, 100),
        "late_rate_7d": np.linspace(0.0, 0.7, 100),
        "depot": ["north", "south"] * 50,
    }
)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), None], ids=["an error", "not finite"])
def test_scores_stand_when_the_causes_break(monkeypatch, error) -> None:
    model = replace(tiny_model(make_spec(), 1), calibration={"method": "none"})
    causes = [Cause(name="size", features=("weight_kg",))]

    def broken(*_: object) -> None:
        raise error

    scorer = Scorer(model, 0, causes=causes)
    if error:
        monkeypatch.setattr(scorer_module, "sums_by_cause", broken)
    else:
        added = scorer.contributions.of

        def not_finite(matrix, _):
            return np.where(np.arange(len(added(matrix)))[:, None] == 7, np.nan, added(matrix))

        monkeypatch.setattr(scorer.contributions, "of", not_finite)
    scored = scorer.score(ROWS)
    assert scored.column("causes").null_count == 100
    assert scored.column("score").null_count == 0
