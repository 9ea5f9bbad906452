"""Small real runs that pass the failpoints: the state before, a repeatable step, its result."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from examples.flights.faults import Fault, FaultType
from examples.flights.upstream import deliver
from tests.integration.monitoring import conftest as parcels
from tests.integration.scoring import conftest as scoring
from tests.integration.training import conftest as training
from tests.integration.transformation import conftest as flights
from tests.integration.warehouse.conftest import DAY, PLAIN

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import AuditError, NightshiftError
from nightshift.failpoints import Failpoint
from nightshift.ingestion.correction_replay import replay_corrections
from nightshift.ingestion.load import ingest
from nightshift.lake.object_store import ObjectStore
from nightshift.lake.snapshots import read_snapshot, write_snapshot
from nightshift.quality.contract_errors import ContractError
from nightshift.quality.correction import correct_row
from nightshift.quality.quarantine import QuarantineState, list_rows, settle_rows
from nightshift.registry.evidence import verify_chain
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.retrain_requests import open_requests
from nightshift.warehouse.fast_io.arrow_io import copy_in
from nightshift.warehouse.partition_write import LoadManifest, audit, begin, collect, publish

P = Failpoint
FIRST = PartitionRange.of("2013-01-01")
NIGHT = Partition.parse("2020-02-01")
STORMY = ("2020-02-02", "2020-02-03", "2020-02-04")


@dataclass(frozen=True)
class Scenario:
    """A run to break.

    Attributes:
        prepare: Makes what stands before the step, once.
        step: The step; run again by attempt 2 after every fault.
        points: The points that it passes; each is broken here.
        is_long: Whether it needs dbt, Great Expectations or a training.
    """

    prepare: Callable[[Settings], None]
    step: Callable[[Settings, RunContext], object]
    points: tuple[Failpoint, ...]
    is_long: bool = False


def _rows(load_id: int, n_rows: int, first: int = 0) -> pa.Table:
    return pa.table(
        {
            "partition_date": [DAY.first.day] * n_rows,
            "load_id": [load_id] * n_rows,
            "thing_id": [f"thing {i + first}" for i in range(n_rows)],
            "value": [i / 7 for i in range(n_rows)],
        }
    )


def _prepare_thing(settings: Settings) -> None:
    with connect(settings) as conn:
        conn.execute(
            "create table features.feat_thing (partition_date date, load_id bigint, thing_id text,"
            " name text, value double precision)"
        )
        dead = begin(
            conn, [PLAIN], DAY, LoadManifest(RunContext("test/dead", 1, "test"), {"input": "dead"})
        )
        copy_in(conn, PLAIN.schema, PLAIN.table, _rows(dead.load_id, 3))


def _write(settings: Settings, run: RunContext) -> None:
    with connect(settings, run.application_name) as conn:
        write = begin(conn, [PLAIN], DAY, LoadManifest(run, {"input": "a"}))
        copy_in(conn, PLAIN.schema, PLAIN.table, _rows(write.load_id, 50))
        audit(conn, write)
        publish(conn, write)
        collect(conn, [PLAIN])


def _write_after_refusal(settings: Settings, run: RunContext) -> None:
    with connect(settings, run.application_name) as conn:
        refused = begin(conn, [PLAIN], DAY, LoadManifest(run, {"input": "empty"}))
        with contextlib.suppress(AuditError):
            audit(conn, refused)
    _write(settings, run)


def _store(settings: Settings, run: RunContext) -> None:
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    snapshot = write_snapshot(store, _rows(1, 50), "snapshots")
    assert read_snapshot(store, snapshot.key, snapshot.sha256).num_rows == 50


def _ingest(settings: Settings, run: RunContext) -> None:
    ingest(settings, "airports", FIRST, run)


def _refuse_drop(settings: Settings, run: RunContext) -> None:
    with contextlib.suppress(ContractError):
        ingest(settings, "carriers", FIRST, run)


def _settle(settings: Settings, run: RunContext) -> None:
    _ingest(settings, run)
    with connect(settings, run.application_name) as conn:
        open_rows = [row.row_id for row in list_rows(conn, "raw/airports", FIRST)]
        if open_rows:
            settle_rows(conn, open_rows, QuarantineState.DISMISSED, "test")


def _correct(settings: Settings, run: RunContext) -> None:
    _ingest(settings, run)
    known_at = FIRST.first.cutoff + dt.timedelta(hours=9)
    with connect(settings, run.application_name) as conn:
        for row in list_rows(conn, "raw/airports", FIRST):
            correct_row(conn, row.row_id, {"latitude_deg": "41.5"}, known_at, "test", "looked up")
    replay_corrections(settings, "airports", FIRST.first.day, run)


def _transform(settings: Settings, run: RunContext) -> None:
    from nightshift.transformation.build import build

    build(settings, FIRST, run)


def _prepare_flights(settings: Settings) -> None:
    with connect(settings) as conn:
        world = flights.World(settings, conn, load_contracts(settings.datasets_dir))
        world.deliver_day(FIRST.first.day, 1)


def _prepare_scoring(settings: Settings) -> None:
    spec = scoring.make_spec()
    with connect(settings) as conn:
        conn.execute(
            "create table features.feat_parcel (partition_date date not null, load_id bigint not"
            " null, parcel_id text not null,"
            " event_timestamp timestamptz not null, as_of timestamptz not null,"
            " weight_kg double precision, late_rate_7d double precision, depot text)"
        )
        scoring.publish_features(conn)
        scoring.Registry(settings, conn, spec).promote("2013-07-01")
    suite = {
        "name": "predictions/parcel_late",
        "expectations": [
            {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}
        ],
    }
    (settings.expectations_dir / "predictions").mkdir(exist_ok=True)
    (settings.expectations_dir / "predictions" / "parcel_late.json").write_text(json.dumps(suite))


def _score(settings: Settings, run: RunContext) -> None:
    from nightshift.scoring.pipeline import score

    score(settings, scoring.make_spec(), DAY, run)


def _prepare_rollback(settings: Settings) -> None:
    from nightshift.scoring.prediction_tables import ensure_prediction_relations

    _prepare_scoring(settings)
    spec = scoring.make_spec()
    with connect(settings) as conn:
        ensure_prediction_relations(conn, spec)
        scoring.Registry(settings, conn, spec).promote("2013-07-01", seed=2)
    _score(settings, RunContext("test/prepare", 1, "test"))


def _rollback(settings: Settings, run: RunContext) -> None:
    from nightshift.scoring.republish import plan_rollback, roll_back

    spec = scoring.make_spec()
    roll_back(settings, spec, plan_rollback(settings, spec, 1, DAY.first, run), "an exercise", run)


def _prepare_training(settings: Settings) -> None:
    with connect(settings) as conn:
        training.create_tables(conn)
        training.fill(conn, 32)


def _train(settings: Settings, run: RunContext) -> None:
    from nightshift.registry.model_versions import register
    from nightshift.registry.promotion import decide
    from nightshift.training.pipeline import train
    from nightshift.training.training_set import build_training_set

    spec = training.tiny_spec()
    key = build_training_set(settings, spec, NIGHT, run).key
    version = register(settings, train(settings, spec, key, run), run)
    decide(settings, spec, version.version, run)


def _prepare_monitoring(settings: Settings) -> None:
    from nightshift.scoring.prediction_tables import ensure_prediction_relations

    ObjectStore.open(settings).ensure_bucket()
    with connect(settings) as conn:
        training.create_tables(conn)
        conn.execute("alter table marts.fct_parcel_labels drop column delay_minutes")
        world = parcels.World(
            settings,
            conn,
            RunContext("test/prepare", 1, "test"),
            ModelSpec.model_validate(parcels.SPEC),
        )
        ensure_prediction_relations(conn, world.spec)
        for number in range(32):
            world.add_night((parcels.FIRST_DAY + dt.timedelta(days=number)).isoformat())
        world.train_champion()
        for key in STORMY:
            world.add_night(key, wind=0.65)
            world.score_night(key)


def _monitor(settings: Settings, run: RunContext) -> None:
    from nightshift.monitoring import verdict_report
    from nightshift.monitoring.monitor import monitor
    from nightshift.monitoring.report import Report

    # Evidently takes seconds and has its own test.
    verdict_report.make_report = lambda *_: Report(b"<html></html>", b"{}")
    monitor(
        settings,
        ModelSpec.model_validate(parcels.SPEC),
        PartitionRange.of(STORMY[0], STORMY[-1]),
        run,
    )
    with connect(settings) as conn:
        assert open_requests(conn, "parcel_late")


def _deliver(*faults: Fault) -> Callable[[Settings], None]:
    return lambda settings: void(
        deliver(settings, FIRST, faults, datasets=("airports", "carriers"))
    )


def void(_: object) -> None:
    """Drop a result."""


_DAY = FIRST.first.day
SCENARIOS: Mapping[str, Scenario] = {
    "write": Scenario(
        _prepare_thing,
        _write,
        (
            *(P.BEGIN_BEFORE, P.BEGIN_AFTER, P.COPY_AFTER, P.AUDIT_BEFORE, P.AUDIT_AFTER),
            *(
                P.PUBLISH_BEFORE,
                P.PUBLISH_FLIPPED,
                P.PUBLISH_AFTER,
                P.COLLECT_BEFORE,
                P.COLLECT_DELETED,
            ),
        ),
    ),
    "refuse": Scenario(_prepare_thing, _write_after_refusal, (P.REFUSE_AFTER,)),
    "store": Scenario(lambda _: None, _store, (P.PUT_BEFORE, P.PUT_AFTER, P.GET_BEFORE)),
    "ingest": Scenario(_deliver(), _ingest, (P.INGEST_CHECKED, P.INGEST_STAGE_AFTER)),
    "refuse drop": Scenario(
        _deliver(Fault(FaultType.MISSING_COLUMN, "carriers", _DAY, column="name")),
        _refuse_drop,
        (P.KEEP_DROP_AFTER,),
    ),
    "settle": Scenario(
        _deliver(Fault(FaultType.BAD_ROWS, "airports", _DAY, column="lat")),
        _settle,
        (P.SETTLE_ROWS_AFTER,),
    ),
    "correct": Scenario(
        _deliver(Fault(FaultType.BAD_ROWS, "airports", _DAY, column="lat")),
        _correct,
        (P.CORRECT_ROW_AFTER,),
    ),
    "transform": Scenario(
        _prepare_flights, _transform, (P.RELATIONS_BEFORE, P.DBT_BEFORE, P.DBT_AFTER), is_long=True
    ),
    "score": Scenario(
        _prepare_scoring,
        _score,
        (
            P.SCORE_BEGIN_AFTER,
            P.SCORE_SHARD_BEFORE,
            P.APPEND_AFTER,
            P.SCORE_SHARD_AFTER,
            P.GATE_BEFORE,
            P.GATE_AFTER,
        ),
        is_long=True,
    ),
    "train": Scenario(
        _prepare_training,
        _train,
        (
            P.TRAINING_SET_AFTER,
            P.CHECKPOINT_AFTER,
            P.TRAIN_STORED,
            P.REGISTER_AFTER,
            P.PROMOTION_JUDGED,
            P.PROMOTION_AFTER,
        ),
        is_long=True,
    ),
    "rollback": Scenario(_prepare_rollback, _rollback, (P.ROLLBACK_AFTER,), is_long=True),
    "monitor": Scenario(
        _prepare_monitoring, _monitor, (P.MONITOR_MEASURED, P.DECISION_AFTER), is_long=True
    ),
}

_LEFT_BEHIND = {
    "what readers see": "select p.dataset, p.partition_date::text, l.content_hash, l.n_rows from"
    " ops.published p"
    " join ops.loads l using (dataset, partition_date, load_id)",
    "publications": "select dataset, partition_date::text, content_hash, count(*) from ops.ledger"
    " where event = 'published' group by 1, 2, 3",
    "drops": "select d.dataset, d.partition_date::text, d.source_sha256, count(*) from"
    " raw.ingested_drops d"
    " join ops.loads l using (dataset, partition_date, load_id) where l.state = 'published' group"
    " by 1, 2, 3",
    "refused rows": "select dataset, partition_date::text, row_digest, state from"
    " quarantine.refused_rows",
    "refused drops": "select dataset, partition_date::text, source_sha256, code from"
    " quarantine.refused_drops",
    "training sets": "select training_set, sha256, n_rows from ml.training_sets",
    "model versions": "select model, version, digest from ml.model_versions",
    "evidence": "select model, digest, sample, source, slice_column, slice_level, metric, value"
    " from ml.evaluations",
    "promotions": "select model, version, verdict, effective_partition::text from ml.promotions",
    "decisions": "select model, partition_date::text, state from monitoring.retrain_decisions",
}


def left_behind(settings: Settings) -> dict[str, list[str]]:
    """Return all that a rerun must leave as an undisturbed run does, objects of the bucket too."""
    with connect(settings) as conn:
        found = {
            name: sorted(str(row) for row in conn.execute(query.encode()))
            for name, query in _LEFT_BEHIND.items()
        }
        models = [
            name for (name,) in conn.execute("select distinct model from ml.promotions order by 1")
        ]
        found["verified records"] = [
            f"{name} {verify_chain(settings, ObjectStore.open(settings), conn, name)}"
            for name in models
        ]
    with contextlib.suppress(NightshiftError):
        # Data docs and evidence records are of one attempt each: they name its load or its run, and
        # the seconds that scoring took.
        found["objects"] = [
            key
            for key in ObjectStore.open(settings).list("")
            if not key.startswith(("data_docs/", "evidence/"))
        ]
    return found
