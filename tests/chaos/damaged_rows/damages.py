"""Ways to damage published rows, as a wrong statement or a partial restore does."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class Partition:
    """One published partition.

    Attributes:
        dataset: Name in the ledger.
        table: Schema and name of its table.
        day: Its day.
        key: A column that tells its rows apart.
        value: A column whose values are numbers.
    """

    dataset: str
    table: tuple[str, str]
    day: dt.date
    key: str
    value: str

    def execute(self, conn: Connection, statement: str) -> int:
        """Run a statement on the rows that readers see, and return how many it touched."""
        query = sql.SQL(statement).format(
            table=sql.Identifier(*self.table),
            seen=sql.SQL(
                "t.partition_date = {day} and t.load_id = (select load_id from ops.published"
                " where dataset = {dataset} and partition_date = {day})"
            ).format(day=sql.Literal(self.day), dataset=sql.Literal(self.dataset)),
            key=sql.Identifier(self.key),
            value=sql.Identifier(self.value),
            day=sql.Literal(self.day),
            dataset=sql.Literal(self.dataset),
        )
        return conn.execute(query).rowcount

    def content(
        self, conn: Connection, left_out: tuple[str, ...] = ("load_id", "run_id")
    ) -> list[str]:
        """Return what readers see, without how it came here."""
        query = sql.SQL(
            "select (to_jsonb(t) - {left_out}::text[])::text from {table} t join ops.published p"
            " using (partition_date, load_id)"
            " where p.dataset = {dataset} and p.partition_date = {day} order by 1"
        )
        rows = conn.execute(
            query.format(
                left_out=sql.Literal(list(left_out)),
                table=sql.Identifier(*self.table),
                dataset=sql.Literal(self.dataset),
                day=sql.Literal(self.day),
            )
        )
        return [row for (row,) in rows]

    def repairs(self, conn: Connection) -> list[str]:
        """Return why the ledger says that the partition was published again."""
        rows = conn.execute(
            "select reason from ops.ledger where dataset = %s and partition_date = %s and event in"
            " ('published', 'duplicate')"
            " and reason is not null order by ledger_id",
            [self.dataset, self.day],
        )
        return [reason for (reason,) in rows]


_SOME = "(select {key} from {table} t where {seen} order by 1 limit 1)"
_WHERE_SOME = f"where {{seen}} and {{key}} in {_SOME}"
DAMAGES = {
    "some rows deleted": f"delete from {{table}} t where {{seen}} and {{key}} in {_SOME}",
    "all rows deleted": "delete from {table} t where {seen}",
    "a value altered": f"update {{table}} t set {{value}} = {{value}} + 1 {_WHERE_SOME}",
    "a value lost": f"update {{table}} t set {{value}} = null {_WHERE_SOME}",
    "a row of another day": f"update {{table}} t set partition_date = {{day}} + 1 {_WHERE_SOME}",
    "the record altered": "update ops.loads t set n_rows = n_rows + 1 where {seen} and t.dataset ="
    " {dataset}",
    "the pointer lost": "delete from ops.published where dataset = {dataset} and partition_date ="
    " {day}",
}
"""By name; each is a statement that touches at least one row."""
DOUBLED = "a row doubled"
"""Only where the table itself does not refuse it."""
