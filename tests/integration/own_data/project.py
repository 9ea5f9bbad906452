"""A project of somebody else: one feature view, one outcome, in the shape that a test asks for.

Entities occur once: each has a key of its own. Outcomes depend on the column ``amount``, so that a
model is better than the rule and than a linear model.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.monitor import monitor
from nightshift.monitoring.trigger import loss_lag_days
from nightshift.registry.model_versions import register
from nightshift.registry.promotion import decide
from nightshift.scoring.pipeline import score
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.training.pipeline import train
from nightshift.training.training_set import build_training_set
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.monitoring.verdict import Verdict
    from nightshift.registry.promotion import Decision
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

FIRST = Partition.parse("2020-01-01")
FEATURES = Target("features/thing", "features", "feat_thing", ("thing_id",), may_be_empty=True)
TRAINING = {
    "schedule": "nightly",
    "window_days": 30,
    "minimum_days": 20,
    "validation_days": 5,
    "holdout_days": 5,
    "backtest_folds": 0,
    "num_boost_round": 30,
    "params": {"num_leaves": 7, "min_data_in_leaf": 20},
}


def noise(seed: str) -> str:
    """Return the SQL of a number from 0 to 1 that depends on the entity and a seed."""
    return f"((hashtext(thing_id || '{seed}')::bigint + 2147483648) / 4294967296.0)"


LATE = f"((abs(amount - 0.5) > 0.25) <> ({noise('luck')} < 0.1))::integer"
"""Rather certain, and no straight line finds it."""


@dataclass(frozen=True)
class Shape:
    """What the data of a project look like.

    Attributes:
        numeric: SQL of each numeric feature besides ``amount``; it sees ``thing_id``, ``day`` and
            ``i``, the number of the entity.
        categorical: SQL of each categorical feature.
        minimum_rows: The spec's ``minimum_rows`` of each categorical feature.
        outcome: SQL of the outcome; it sees the features.
        outcome_type: Its type.
        rows: Entities of each day.
        days: SQL condition of the days that have entities.
        maturity_days: The spec's ``label.maturity_days``.
        spec: Parts of the spec that differ.
    """

    numeric: Mapping[str, str] = field(default_factory=dict)
    categorical: Mapping[str, str] = field(default_factory=dict)
    minimum_rows: int = 20
    outcome: str = LATE
    outcome_type: str = "double precision"
    rows: int = 40
    days: str = "true"
    maturity_days: int = 1
    spec: Mapping[str, Any] = field(default_factory=dict)


class Project:
    """Data of a shape, from the first day of training to the night whose outcomes mature last.

    Args:
        settings: Of its database.
        conn: A connection to it.
        run: Writes everything.
        shape: Of its data.
        is_filled: The database is a copy of one that this shape has filled.

    Attributes:
        trained_on: The partition that trains.
        tonight: The first partition that the champion scores.
        monitored: The partition at which outcomes of ``tonight`` mature.
    """

    def __init__(
        self,
        settings: Settings,
        conn: Connection,
        run: RunContext,
        shape: Shape,
        *,
        is_filled: bool = False,
    ) -> None:
        self.settings, self.conn, self.run, self.shape = settings, conn, run, shape
        self.spec = _spec(shape)
        window_days = self.spec.training.window_days
        self.trained_on = FIRST.shift(window_days + shape.maturity_days)
        self.tonight = self.trained_on.shift(1)
        self.monitored = self.tonight.shift(loss_lag_days(self.spec))
        if is_filled:
            return
        ObjectStore.open(settings).ensure_bucket()
        _create_tables(conn, shape)
        ensure_prediction_relations(conn, self.spec)
        self._fill()

    def train(self) -> Decision:
        """Build, fit, register and judge a challenger."""
        key = build_training_set(self.settings, self.spec, self.trained_on, self.run).key
        candidate = train(self.settings, self.spec, key, self.run)
        version = register(self.settings, candidate, self.run).version
        return decide(self.settings, self.spec, version, self.run)

    def score(self, partition: Partition) -> dict[str, int]:
        """Score a partition; return its published rows by who scored them."""
        score(self.settings, self.spec, PartitionRange.single(partition), self.run)
        rows = self.conn.execute(
            "select score_source, count(*) from analytics.thing_model_current"
            " where partition_date = %s group by 1",
            [partition.day],
        )
        return dict(rows.fetchall())

    def monitor(self, partition: Partition) -> Verdict:
        """Monitor a partition."""
        return monitor(self.settings, self.spec, PartitionRange.single(partition), self.run)

    def _fill(self) -> None:
        partitions = PartitionRange(FIRST, self.monitored)
        columns = {"amount": noise("amount"), **self.shape.numeric, **self.shape.categorical}
        write = begin(self.conn, [FEATURES], partitions, LoadManifest(self.run, {"raw": "1"}))
        as_ofs = [partition.cutoff for partition in partitions]
        self.conn.execute(
            f"""
            insert into features.feat_thing
            select day, {write.load_id}, thing_id, (day + 1) + interval '15 hours', as_of, 0.3,
                {", ".join(columns.values())}
            from unnest(%s::date[], %s::timestamptz[]) as d (day, as_of)
            cross join generate_series(1, {self.shape.rows}) as i
            cross join lateral (select format('%%s-%%s', day, i) as thing_id) as k
            where {self.shape.days}
            """.encode(),
            [partitions.days, as_ofs],
        )
        audit(self.conn, write)
        publish(self.conn, write)
        lag = 1 + self.shape.maturity_days
        known = [partition.shift(lag).cutoff - dt.timedelta(minutes=5) for partition in partitions]
        self.conn.execute(
            f"""
            insert into marts.fct_thing_outcomes
            select partition_date + 1, thing_id, event_timestamp, known_at, null,
                {self.shape.outcome}
            from features.feat_thing
            join unnest(%s::date[], %s::timestamptz[]) as d (day, known_at) on day = partition_date
            """.encode(),
            [partitions.days, known],
        )


def _create_tables(conn: Connection, shape: Shape) -> None:
    numeric = "".join(f", {name} double precision" for name in ("amount", *shape.numeric))
    categorical = "".join(f", {name} text" for name in shape.categorical)
    conn.execute(
        f"""
        create table features.feat_thing (
            partition_date date not null, load_id bigint not null, thing_id text not null,
            event_timestamp timestamptz, as_of timestamptz, rate double precision
            {numeric}{categorical});
        create table marts.fct_thing_outcomes (
            partition_date date, thing_id text, event_timestamp timestamptz, known_at timestamptz,
            superseded_at timestamptz, outcome {shape.outcome_type});
        """.encode()
    )


def _spec(shape: Shape) -> ModelSpec:
    categorical = [{"name": name, "minimum_rows": shape.minimum_rows} for name in shape.categorical]
    document = {
        "name": "thing_model",
        "description": "d",
        "task": "binary",
        "owner": "somebody",
        "runbook": "docs/runbooks/README.md",
        "deadline": "04:00",
        "entity": {"name": "thing", "key": "thing_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "thing",
        "features": {"numeric": ["amount", *shape.numeric], "categorical": categorical},
        "label": {
            "relation": "fct_thing_outcomes",
            "column": "outcome",
            "maturity_days": shape.maturity_days,
        },
        "training": TRAINING,
        "promotion": {"metric": "roc_auc"},
        "scoring": {"reasons": 2, "fallback": {"feature": "rate", "default": 0.3}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.3,
            "windows": {"n": 2, "m": 3},
            "minimum_labels": 20,
            "report_rows": 100,
        },
    }
    return ModelSpec.model_validate(document | dict(shape.spec))
