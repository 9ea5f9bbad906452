"""Every task looks for its result in the warehouse: a stage that returns without having done its work makes no task succeed."""

from __future__ import annotations

import datetime as dt
import inspect
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.orchestration import task_scope as scopes
from nightshift.orchestration import tasks
from nightshift.orchestration.post_conditions import PostConditionError
from nightshift.scoring.plan import DayPlan, ScorePlan
from nightshift.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.promise("R18")]

DAY, MODEL = dt.date(2013, 1, 5), "flight_delayed"
PLAN = ScorePlan(
    load_id=999,
    n_shards=2,
    days=(DayPlan(partition_date=DAY, feature_load_id=998, model_version=1, score_source="champion", score_source_reason=None),),
)
INGESTED = SimpleNamespace(partitions=(SimpleNamespace(n_rows=5),), n_rows=5, n_refused=0)
PUBLISHED = SimpleNamespace(load_id=999, n_rows=5, content_hash="h", dataset="features/flight")

READ_ONLY = {"tell_failures", "is_training_due", "shards_of"}
"""They answer a question from what they are given or from the warehouse, and leave nothing behind."""
LIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "load_reference": (tasks.load_reference, {"nightshift.ingestion.load.ingest": INGESTED}),
    "load_dataset": (lambda: tasks.load_dataset("weather"), {"nightshift.ingestion.load.ingest": INGESTED}),
    "announce_raw": (tasks.announce_raw, {}),
    "build_features": (
        tasks.build_features,
        {"nightshift.transformation.build.build": SimpleNamespace(published=(PUBLISHED,), summary=lambda: {"n_rows": 5})},
    ),
    "begin_scoring": (lambda: tasks.begin_scoring(MODEL), {"nightshift.scoring.batch_scorer.begin": PLAN}),
    "score_shard": (
        lambda: tasks.score_shard(MODEL, PLAN.model_dump(mode="json"), 0),
        {"nightshift.scoring.batch_scorer.score_shard": {"shard": 0, "n_rows": 5}},
    ),
    "publish_predictions": (
        lambda: tasks.publish_predictions(MODEL, PLAN.model_dump(mode="json")),
        {"nightshift.scoring.publication.publish": [PUBLISHED]},
    ),
    "measure_model": (
        lambda: tasks.measure_model(MODEL),
        {"nightshift.monitoring.measure.measure": SimpleNamespace(summary=lambda: {"retrain_decision_id": None})},
    ),
    "announce_retraining": (lambda: tasks.announce_retraining({"retrain_decision_id": 7}), {}),
    "build_training_set": (
        lambda: tasks.build_training_set(MODEL),
        {"nightshift.training.training_set.build_training_set": SimpleNamespace(key="training-sets/none.parquet")},
    ),
    "train_model": (
        lambda: tasks.train_model(MODEL, "training-sets/none.parquet"),
        {"nightshift.training.pipeline.train": None, "nightshift.registry.model_versions.register": SimpleNamespace(version=7)},
    ),
    "decide_promotion": (
        lambda: tasks.decide_promotion(MODEL, 7),
        {"nightshift.registry.promotion.decide": SimpleNamespace(promotion_id=7, verdict="promoted", reasons=())},
    ),
}
"""Each task, called while its stage only says that it has done its work; by the task's name, with the stages and what they say."""


@pytest.fixture
def task_of_airflow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a task of Airflow's on an empty warehouse."""
    run = SimpleNamespace(dag_id="a_dag", run_id="r", partition_key=DAY.isoformat())
    given = {
        "dag_run": run,
        "ti": SimpleNamespace(task_id="a_task", try_number=1, map_index=-1),
        "task": SimpleNamespace(execution_timeout=dt.timedelta(minutes=5)),
    }
    monkeypatch.setattr(scopes, "get_current_context", lambda: given)
    monkeypatch.setattr(scopes, "load_settings", lambda: settings)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_every_task_has_its_contract() -> None:
    """A new task body needs a post-condition (``nightshift.orchestration.post_conditions``) and a line in ``LIES``."""
    bodies = {name for name, body in inspect.getmembers(tasks, inspect.isfunction) if body.__module__ == tasks.__name__ and name[0] != "_"}
    assert bodies == LIES.keys() | READ_ONLY


@pytest.mark.parametrize("name", sorted(LIES))
def test_task_fails_when_its_stage_returns_without_a_result_in_the_warehouse(
    task_of_airflow: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    task, stages = LIES[name]
    for stage, answer in stages.items():
        monkeypatch.setattr(stage, lambda *_, _answer=answer, **__: _answer)
    with pytest.raises(PostConditionError) as raised:
        task()
    assert raised.value.code == "NS-AIRFLOW-005"
