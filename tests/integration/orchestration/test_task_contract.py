"""Every task looks for its result in the warehouse: a stage that returns without having done its
work makes no task succeed."""

from __future__ import annotations

import datetime as dt
import inspect
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.orchestration import (
    data_tasks,
    monitor_tasks,
    rescue_tasks,
    score_tasks,
    train_tasks,
)
from nightshift.orchestration import task_scope as scopes
from nightshift.orchestration.post_conditions import PostConditionError
from nightshift.scoring.plan import DayPlan, ScorePlan
from nightshift.settings import Settings
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.promise("R18")]

DAY, MODEL = dt.date(2013, 1, 5), "flight_delayed"
PLAN = ScorePlan(
    load_id=999,
    n_shards=2,
    days=(
        DayPlan(
            partition_date=DAY,
            feature_load_id=998,
            model_version=1,
            score_source="champion",
            score_source_reason=None,
        ),
    ),
)
INGESTED = SimpleNamespace(partitions=(SimpleNamespace(n_rows=5),), n_rows=5, n_refused=0)
PUBLISHED = SimpleNamespace(load_id=999, n_rows=5, content_hash="h", dataset="features/flight")
MANIFEST = LoadManifest(RunContext("test/run", 1, "test"), {"input": "a"})

READ_ONLY = {"watcher", "is_training_due", "is_report_due", "emit_predictions_asset"}
"""They read, or decide by what they are given, and leave nothing behind."""
PLAN_DOCUMENT = PLAN.model_dump(mode="json")
SCORED = SimpleNamespace(outcome="scored", reason=None, load_id=999, n_rows=5)
BUILT = SimpleNamespace(published=(PUBLISHED,), summary=lambda: {"n_rows": 5})
MEASURED = SimpleNamespace(summary=lambda: {"retrain_decision_id": None})
DECIDED = SimpleNamespace(promotion_id=7, model=MODEL, version=7, verdict="promoted", reasons=())
TRAINING_SET = "training-sets/none.parquet"
LIES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "load_reference": ((), {"nightshift.ingestion.load.ingest": INGESTED}),
    "load_dataset": (("weather",), {"nightshift.ingestion.load.ingest": INGESTED}),
    "emit_raw_assets": ((), {}),
    "build_features": ((), {"nightshift.transformation.build.build": BUILT}),
    "emit_feature_view_asset": (("flight", {"failures": {}}), {}),
    "begin_scoring": ((MODEL,), {"nightshift.scoring.pipeline.begin": PLAN}),
    "score_shard": (
        (MODEL, PLAN_DOCUMENT, 0),
        {"nightshift.scoring.pipeline.score_shard": {"shard": 0, "n_rows": 5}},
    ),
    "publish_predictions": (
        (MODEL, PLAN_DOCUMENT),
        {"nightshift.scoring.pipeline.publish": [PUBLISHED]},
    ),
    "rescue_predictions": (
        (MODEL,),
        {"nightshift.scoring.deadline_fallback.publish_by_deadline": SCORED},
    ),
    "rescue_by_last_good_spec": (
        (MODEL,),
        {"nightshift.scoring.deadline_fallback.publish_by_deadline": SCORED},
    ),
    "measure_model": ((MODEL,), {"nightshift.monitoring.monitor.monitor": MEASURED}),
    "emit_retrain_asset": (({"retrain_decision_id": 7},), {}),
    "build_training_set": (
        (MODEL,),
        {"nightshift.training.training_set.build_training_set": SimpleNamespace(key=TRAINING_SET)},
    ),
    "train_model": (
        (MODEL, TRAINING_SET),
        {
            "nightshift.training.pipeline.train": None,
            "nightshift.registry.model_versions.register": SimpleNamespace(version=7),
        },
    ),
    "decide_promotion": ((MODEL, 7), {"nightshift.registry.promotion.decide": DECIDED}),
    "score_shadows": (
        (MODEL,),
        {
            "nightshift.scoring.shadow.shadow_scores.score_shadows": SimpleNamespace(
                load_id=999, n_rows=5, content_hash="h", dataset=f"shadow/{MODEL}"
            )
        },
    ),
    "record_stream_nights": (
        (MODEL,),
        {
            "nightshift.registry.streams.nights.record_nights": [
                SimpleNamespace(stream="trained", partition_date=DAY, shadow_load=999)
            ]
        },
    ),
    "report_features": (
        (MODEL,),
        {"nightshift.studies.feature_report.report_features": SimpleNamespace(partition_date=DAY)},
    ),
    "decide_on_streams": (
        (MODEL,),
        {"nightshift.registry.streams.nightly_decision.decide_night": [DECIDED]},
    ),
}
"""By task: its arguments, and stages that only claim to have done their work, with their
results."""


MODULES = (data_tasks, monitor_tasks, rescue_tasks, score_tasks, train_tasks)


def task_bodies() -> dict[str, Callable[..., Any]]:
    """Return every task body of the modules, by name."""
    bodies = {}
    for module in MODULES:
        members = inspect.getmembers(module, lambda member: hasattr(member, "function"))
        bodies.update({name: member.function for name, member in members})
    return bodies


def run(name: str) -> Any:
    """Run a task as Airflow does: with its arguments, and the partition key if it takes one."""
    body, (arguments, _) = task_bodies()[name], LIES[name]
    takes_key = "partition_key" in inspect.signature(body).parameters
    return body(*arguments, **({"partition_key": DAY.isoformat()} if takes_key else {}))


@pytest.fixture
def task_of_airflow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a task of Airflow's on an empty warehouse."""
    given = {
        "dag_run": SimpleNamespace(dag_id="a_dag", run_id="r"),
        "ti": SimpleNamespace(task_id="a_task", try_number=1, map_index=-1),
        "task": SimpleNamespace(execution_timeout=dt.timedelta(minutes=5)),
    }
    monkeypatch.setattr(scopes, "get_current_context", lambda: given)
    monkeypatch.setattr(scopes, "load_settings", lambda: settings)
    monkeypatch.setattr(rescue_tasks, "load_settings", lambda: settings)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_every_task_has_its_contract() -> None:
    """A new task body needs a post-condition (``nightshift.orchestration.post_conditions``) and a
    line in ``LIES``."""
    assert task_bodies().keys() == LIES.keys() | READ_ONLY


@pytest.mark.parametrize("name", sorted(LIES))
def test_task_fails_when_its_stage_returns_without_a_result_in_the_warehouse(
    task_of_airflow: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for stage, answer in LIES[name][1].items():
        monkeypatch.setattr(stage, lambda *_, _answer=answer, **__: _answer)
    with pytest.raises(PostConditionError) as raised:
        run(name)
    assert raised.value.code == "NS-AIRFLOW-005"


@pytest.mark.parametrize(
    ("task", "dataset"),
    [
        ("build_features", "features/flight"),
        ("publish_predictions", f"predictions/{MODEL}"),
        ("rescue_predictions", f"predictions/{MODEL}"),
    ],
)
def test_task_fails_when_readers_see_a_load_from_before_its_own(
    task_of_airflow: None,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    dataset: str,
) -> None:
    older = begin(
        conn,
        [Target(dataset, "features", "feat_thing", ("thing_id",))],
        PartitionRange.single(Partition(DAY)),
        MANIFEST,
    )
    conn.execute(
        "create table features.feat_thing (partition_date date, load_id bigint, thing_id text)"
    )
    conn.execute("insert into features.feat_thing values (%s, %s, 'a')", [DAY, older.load_id])
    audit(conn, older)
    publish(conn, older)
    load = SimpleNamespace(load_id=older.load_id + 1, n_rows=1, content_hash="h", dataset=dataset)
    says = {
        "build_features": SimpleNamespace(published=(load,), summary=dict),
        "publish_predictions": [load],
        "rescue_predictions": SimpleNamespace(
            outcome="scored", reason=None, load_id=load.load_id, n_rows=1
        ),
    }
    for stage in LIES[task][1]:
        monkeypatch.setattr(stage, lambda *_, **__: says[task])
    with pytest.raises(PostConditionError) as raised:
        run(task)
    assert raised.value.got == f"load {older.load_id}"


def test_task_fails_when_readers_see_fewer_rows_than_were_published(
    task_of_airflow: None, conn: Connection, monkeypatch
) -> None:
    for dataset in ("flight_schedules", "flight_outcomes", "weather"):
        target = Target(f"raw/{dataset}", "raw", dataset, ("source_row",), is_versioned=True)
        manifest = LoadManifest(
            MANIFEST.run, MANIFEST.inputs, dt.datetime(2013, 1, 6, tzinfo=dt.UTC)
        )
        write = begin(conn, [target], PartitionRange.single(Partition(DAY)), manifest)
        statement = (
            f"insert into raw.{dataset} (partition_date, load_id, known_at, "
            "source_row) select %s, %s, now(), generate_series(1, 5)"
        )
        conn.execute(statement.encode(), [DAY, write.load_id])
        audit(conn, write)
        publish(conn, write)
    assert run("emit_raw_assets") == DAY.isoformat()

    conn.execute("delete from raw.weather where source_row > 3")

    with pytest.raises(PostConditionError) as raised:
        run("emit_raw_assets")
    assert (raised.value.expected, raised.value.got) == (
        "5 rows of raw/weather, as published",
        "3 rows",
    )
