"""Leak check of a challenger: its own feature rows, made again without and with later raw rows.

The rows are those of the loads that the training set names. That a value changes with what came
later is the proof; how well the feature separates the labels with and without it is the hint that
tells a person what the leak was worth. Source: docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.run import RunContext
from nightshift.models.signature import numbers
from nightshift.registry.checks import Criterion, passed_if
from nightshift.training.point_in_time_probe import (
    BLIND_TABLE,
    PartitionProbe,
    probe_partition,
)
from nightshift.training.single_feature_leakage import separation
from nightshift.training.splits import rows_between
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext
    from nightshift.warehouse.connection import Connection

NAME = "point_in_time"
_MAX_SHOWN = 3
_SKEWED = "the published rows are not what their SQL makes of what was known"
_HINT = "{} alone separates the labels by {:.3f}, and by {:.3f} without what came later."
Hints = dict[str, tuple[float, float]]
"""By feature: how well it separates the labels as trained on, and without later rows."""


def point_in_time(context: PromotionContext) -> Iterator[Criterion]:
    """Check that no feature of the challenger changes with what came later.

    Gives one criterion, or one for each group of features that leaks: ``point_in_time[<group>]``.
    """
    loads = _feature_loads(context)
    days = sample_days(context, list(loads))
    run = RunContext(f"gate/{context.spec.name}", actor="gate")
    n_rows = 0
    n_later = 0
    # A connection of its own: the rebuilds are temporary relations, which end with it.
    with connect(context.settings, run.application_name) as conn:
        for day in days:
            probe = probe_partition(
                conn,
                context.settings,
                context.spec,
                day,
                run,
                loads[day],
            )
            objections = _objections(conn, context, probe)
            if objections:
                # One leaking day is enough; the next would say the same.
                yield from objections
                return
            n_rows += probe.n_rows
            n_later += sum(probe.n_later.values())
    shown = ", ".join(map(str, days))
    reason = (
        f"{n_rows} rows of {shown} keep every bit when later rows are hidden,"
        f" and when {n_later} later rows are invented."
    )
    # No rebuilt row is no evidence.
    is_passed = n_rows > 0
    yield passed_if(
        is_passed,
        NAME,
        0,
        0,
        reason,
        n_rows=n_rows,
        n_later=n_later,
    )


def _feature_loads(context: PromotionContext) -> dict[dt.date, int]:
    """Return the load of each day that the training set was built from.

    They stand in its manifest in ``ml.training_sets``.
    """
    loads = {}
    # The training set's own loads: what is published today may be a repair of them.
    for entry in context.manifest["partitions"]:
        day = dt.date.fromisoformat(entry["partition"])
        loads[day] = int(entry["load_id"])
    return loads


def sample_days(
    context: PromotionContext,
    days: list[dt.date],
) -> list[dt.date]:
    """Return the days to probe: the newest one, which judges, and some that nobody can foresee.

    A rerun of the decision draws the same days.

    Args:
        context: The challenger, whose digest is the seed, and the number of days to draw.
        days: All days of its training set, at least one.
    """
    *earlier, newest = sorted(days)
    dice = random.Random(context.challenger.digest)  # noqa: S311 - reproducible
    n_sampled = min(context.settings.leakage_probe_days, len(earlier))
    drawn = dice.sample(earlier, n_sampled)
    return sorted([*drawn, newest])


def _objections(
    conn: Connection,
    context: PromotionContext,
    probe: PartitionProbe,
) -> list[Criterion]:
    """Return a failed criterion for each group of the model's columns that leak or differ."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for column in _changed(context, probe):
        group = group_of(column)
        groups[group].append(column)
    criteria = []
    for group, columns in groups.items():
        hints = separations(conn, context, probe.load.day, columns)
        reason = _reason(probe, columns, hints)
        name = f"{NAME}[{group}]"
        n_columns = len(columns)
        failed = passed_if(
            False,
            name,
            n_columns,
            0,
            reason,
            columns=columns,
            separations=hints,
        )
        criteria.append(failed)
    return criteria


def _changed(
    context: PromotionContext,
    probe: PartitionProbe,
) -> list[str]:
    """Return the columns of the model that leak, or are not what their SQL makes."""
    features = context.spec.features.names
    # An entity that comes or goes, and a moved as-of, change every feature.
    own = {*features, context.spec.entity.key, "as_of", "rows"}
    changed = {*probe.leaks, *probe.skewed}
    return sorted(own & changed)


def _reason(
    probe: PartitionProbe,
    columns: list[str],
    hints: Hints,
) -> str:
    """Return in one sentence what changed the columns, and in one each what it was worth."""
    causes: set[str] = set()
    for column in columns:
        causes.update(probe.leaks.get(column, [_SKEWED]))
    shown = ", ".join(columns[:_MAX_SHOWN])
    why = "; ".join(sorted(causes))
    sentences = [f"On {probe.load.day} {shown} change ({why})."]
    for column in columns[:_MAX_SHOWN]:
        # Categories and days of one label have no separation of their own.
        if column not in hints:
            continue
        trained, blind = hints[column]
        sentences.append(_HINT.format(column, trained, blind))
    return " ".join(sentences)


def group_of(column: str) -> str:
    """Return the group of a feature: the first word of its name, ``shop`` of ``shop_rate``.

    Features of a group come of one source, and leak together. The name of a group stands in
    the criterion, so that a person sees at once which source to look at.
    """
    group, _, _ = column.partition("_")
    return group


def separations(
    conn: Connection,
    context: PromotionContext,
    day: dt.date,
    columns: list[str],
) -> Hints:
    """Return how well numeric features separate a day's labels, as trained on and blind.

    Args:
        conn: Its blind values are those of the last rebuild.
        context: The challenger, and its training rows with their labels.
        day: The probed day.
        columns: Features that changed; only numeric ones have a separation.

    Returns:
        By feature, the separation by the trained and by the blind values; none where the day's
        labels are all equal.
    """
    spec = context.spec
    rows = rows_between(context.all_rows, day, day)
    label = numbers(rows, spec.label.column)
    # A day of one label cannot be separated.
    if rows.num_rows == 0 or np.ptp(label) == 0:
        return {}
    keys = rows.column(spec.entity.key)
    names = [str(key) for key in keys.to_pylist()]
    hints = {}
    for column in columns:
        if column not in spec.features.numeric:
            continue
        by_name = _blind_values(conn, context, column)
        blind = np.array([by_name.get(name, np.nan) for name in names])
        trained = numbers(rows, column)
        hints[column] = (
            separation(trained, label, spec.task),
            separation(blind, label, spec.task),
        )
    return hints


def _blind_values(
    conn: Connection,
    context: PromotionContext,
    column: str,
) -> dict[str, float]:
    """Return the value of each entity in the blind rebuild."""
    from psycopg import sql

    # A missing value is NaN, as the model reads it.
    query = sql.SQL("select {}::text, coalesce({}::float8, 'NaN') from {}")
    statement = query.format(
        sql.Identifier(context.spec.entity.key),
        sql.Identifier(column),
        sql.Identifier("pg_temp", BLIND_TABLE),
    )
    rows = conn.execute(statement).fetchall()
    return dict(rows)
