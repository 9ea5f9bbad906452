"""A plan survives its way through XCom, and groups its days."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from nightshift.scoring.plan import ScorePlan

DOCUMENT = {
    "load_id": 7,
    "n_shards": 2,
    "days": [
        {
            "partition_date": "2013-07-01",
            "feature_load_id": 3,
            "model_version": 1,
            "score_source": "champion",
        },
        {
            "partition_date": "2013-07-02",
            "feature_load_id": 3,
            "score_source": "fallback_rule",
            "score_source_reason": "none",
        },
        {
            "partition_date": "2013-07-03",
            "feature_load_id": 4,
            "model_version": 1,
            "score_source": "champion",
        },
    ],
}


def test_plan_is_equal_after_json():
    plan = ScorePlan.model_validate(DOCUMENT)

    assert ScorePlan.model_validate(json.loads(json.dumps(plan.model_dump(mode="json")))) == plan


def test_plan_groups_days_by_who_scores():
    plan = ScorePlan.model_validate(DOCUMENT)

    assert [day.partition_date.day for day in plan.days_by_version[1]] == [1, 3]
    assert [day.partition_date.day for day in plan.days_without_model] == [2]
    assert (str(plan.partitions), plan.shards) == ("2013-07-01..2013-07-03", [0, 1])


def test_plan_refuses_unknown_keys():
    with pytest.raises(ValidationError):
        ScorePlan.model_validate(DOCUMENT | {"rows": []})
