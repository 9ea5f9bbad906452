from __future__ import annotations

import json

import numpy as np

from nightshift.registry.checks import passed_if


def test_undefined_numbers_are_none_in_the_record() -> None:
    facts = {"rates": {"A": float("nan"), "B": 0.5}, "edges": [float("inf"), np.float64(1.5)]}
    criterion = passed_if(False, "leakage", float("nan"), 0.9, "r", **facts)
    document = json.loads(json.dumps(criterion.as_json(), allow_nan=False))
    assert document["number"] is None
    assert document["facts"] == {"rates": {"A": None, "B": 0.5}, "edges": [None, 1.5]}
    assert document["verdict"] == "failed"
