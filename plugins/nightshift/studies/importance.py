"""What a model uses, over time: gain by version, mean absolute Shapley values by week."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.models.booster import importance
from nightshift.models.shapley.shap_values import Contributions
from nightshift.registry.model_loader import load_model, select_versions
from nightshift.scoring.reasons import columns_by_cause
from nightshift.studies.findings import Finding
from nightshift.training.splits import evenly_spaced, rows_of

if TYPE_CHECKING:
    import datetime as dt

    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.model_loader import ModelVersion
    from nightshift.warehouse.connection import Connection

WEEK_DAYS = 7
MAXIMUM_VERSIONS = 12
SAMPLED_ROWS = 2_000
"""Rows of a week that are explained, evenly spaced: enough for a mean, and a fraction of a second.
"""


def weekly_versions(conn: Connection, model: str, until: dt.date) -> list[ModelVersion]:
    """Return the newest version of each of the last twelve weeks that has any, oldest first."""
    condition = "where v.model = %s and v.partition_date <= %s::date order by v.version desc"
    by_week: dict[tuple[int, int], ModelVersion] = {}
    for version in select_versions(conn, condition, [model, until.isoformat()]):
        year, week, _ = version.partition_date.isocalendar()
        by_week.setdefault((year, week), version)
        # The newest version of a week comes first, so later ones are left out.
        if len(by_week) > MAXIMUM_VERSIONS:
            break
    newest_first = list(by_week.values())[:MAXIMUM_VERSIONS]
    return newest_first[::-1]


def gains(store: ObjectStore, versions: list[ModelVersion]) -> Iterator[Finding]:
    """Yield each feature's share of the trees' gain, by version.

    Raises:
        ObjectStoreError: A version's files are away.
    """
    for version in versions:
        booster = load_model(store, version).booster
        for name, share in importance(booster).items():
            yield Finding(
                "gain",
                name,
                share,
                period=str(version.partition_date),
                note=f"version {version.version}",
            )


def contributions_by_week(
    spec: ModelSpec,
    model: TrainedModel,
    rows: pa.Table,
    window: PartitionRange,
) -> Iterator[Finding]:
    """Yield mean absolute contributions of features and causes, for each whole week.

    Weeks are counted back from the last day, so that no week is short.

    Args:
        spec: Its causes.
        model: The model that explains all weeks.
        rows: Labelled rows of the window.
        window: Feature partitions.
    """
    # One model explains all weeks, so that they can be compared.
    explain = Contributions(model)
    names = model.signature.names
    for week in _weeks(window):
        week_rows = evenly_spaced(rows_of(rows, week), SAMPLED_ROWS)
        if not week_rows.num_rows:
            continue
        # Of classes the raw score of the predicted one is explained, as in the published reasons.
        which = model.predictions(week_rows).predicted_class if model.classes else None
        added = explain.of(model.encode(week_rows), which)
        period = week.first.key
        means = np.abs(added).mean(axis=0).tolist()
        for name, value in zip(names, means, strict=True):
            yield Finding("shapley", name, value, period=period)
        for cause, columns in columns_by_cause(names, spec.analytics.causes).items():
            # Of the sum: features of a cause that pull in both directions cancel, as in the reason.
            sums = added[:, columns].sum(axis=1)
            value = float(np.abs(sums).mean())
            yield Finding("cause", cause, value, period=period)


def _weeks(window: PartitionRange) -> list[PartitionRange]:
    weeks = []
    last: Partition = window.last
    while last.shift(1 - WEEK_DAYS) >= window.first:
        weeks.append(PartitionRange(last.shift(1 - WEEK_DAYS), last))
        last = last.shift(-WEEK_DAYS)
    return weeks[::-1]
