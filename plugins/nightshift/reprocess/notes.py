"""Say what a reprocessing leaves unchanged: trainings, and columns that no contract has adopted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


def training_notes(conn: Connection, days: Sequence[dt.date]) -> list[str]:
    """Name the models that learned from these days; a reprocessing does not retrain them."""
    rows = conn.execute(
        """
        select model, max(partition_date)::text, count(*) from ml.training_sets
        where exists (select from unnest(%s::date[]) d where d between first_day and last_day)
        group by model order by model
        """,
        [list(days)],
    )
    notes = []
    for model, day, n in rows:
        sets = f"{n} training set(s), the last of {day}"
        notes.append(f"{model}: {sets}, hold such nights; nothing is retrained by this")
    return notes


def column_notes(conn: Connection) -> list[str]:
    """Name delivered columns that no contract has adopted."""
    # The drops that readers see: their loads are joined, not the rows of a table.
    rows = conn.execute(
        """
        select d.dataset, note, min(d.partition_date), max(d.partition_date), count(*)
        from raw.ingested_drops d
        join ops.published p using (dataset, partition_date, load_id), unnest(d.notes) note
        group by 1, 2 order by 1, 2
        """
    )
    notes = []
    for dataset, note, first, last, n in rows:
        name = dataset.removeprefix("raw/")
        question = f"adopt it? nightshift contract diff {name} {last}"
        notes.append(f"{dataset}: {note}, {n} drop(s) from {first} to {last}; {question}")
    return notes
