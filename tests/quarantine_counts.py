"""What the quarantine holds, counted for assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.quality.quarantine import QuarantineState

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.warehouse.connection import Connection


def count_rows(
    conn: Connection, dataset: str, partitions: PartitionRange
) -> dict[tuple[str, QuarantineState], int]:
    """Return how many rows are in quarantine, by reason and state."""
    rows = conn.execute(
        """
        select reason, state, count(*) from quarantine.refused_rows
        where dataset = %s and partition_date between %s and %s
        group by reason, state order by reason, state
        """,
        [dataset, partitions.first.day, partitions.last.day],
    )
    return {(reason, QuarantineState(state)): n_rows for reason, state, n_rows in rows}
