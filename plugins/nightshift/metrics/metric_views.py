"""Read the views of schema ``metrics``: what each column means is asked of the catalog.

A text column is a label, a number is the gauge ``nightshift_<view>_<column>``, and the comment of a
column is its help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection

PREFIX = "nightshift"
SCHEMA = "metrics"
# Of one view: a fleet of 300 models with three metrics each fits.
MAX_ROWS = 1000
_NUMBERS = {
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "real",
    "double precision",
}


@dataclass(frozen=True)
class MetricView:
    """A view of schema ``metrics``.

    Attributes:
        name: Its name without the schema; the metrics' names begin with it.
        labels: Its text columns.
        values: Its numeric columns, each with its help.
    """

    name: str
    labels: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def query(self) -> sql.Composed:
        """Return the query of its rows, with the number of all its rows as the last column."""
        from psycopg import sql

        columns = [sql.Identifier(name) for name in (*self.labels, *self.values)]
        # The same rows in each scrape, so that a dropped series does not come and go.
        order: list[sql.Composable] = [sql.Identifier(name) for name in self.labels]
        if not order:
            order = [sql.SQL("1")]
        query = sql.SQL(
            """
            select {columns}, count(*) over () from {view}
            order by {order} limit {max_rows}
            """
        )
        return query.format(
            columns=sql.SQL(", ").join(columns),
            view=sql.Identifier(SCHEMA, self.name),
            order=sql.SQL(", ").join(order),
            max_rows=sql.Literal(MAX_ROWS),
        )

    def empty_families(self) -> dict[str, GaugeMetricFamily]:
        """Return its metrics without a sample, by column."""
        families = {}
        for column, text in self.values.items():
            name = f"{PREFIX}_{self.name}_{column}"
            families[column] = GaugeMetricFamily(
                name,
                text,
                labels=self.labels,
            )
        return families


def metric_views(conn: Connection) -> list[MetricView]:
    """Return the views of schema ``metrics`` with their columns and the columns' comments."""
    rows = conn.execute(
        """
        select c.relname, a.attname, format_type(a.atttypid, null),
            coalesce(col_description(c.oid, a.attnum), '')
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace and n.nspname = %s
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relkind = 'v'
        order by c.relname, a.attnum
        """,
        [SCHEMA],
    )
    views: dict[str, MetricView] = {}
    for name, column, sql_type, comment in rows:
        view = views.setdefault(name, MetricView(name))
        if sql_type in _NUMBERS:
            view.values[column] = comment
        else:
            view.labels.append(column)
    return list(views.values())


def read_view(conn: Connection, view: MetricView) -> tuple[list[GaugeMetricFamily], int]:
    """Return the metrics of a view, and the number of rows that were beyond ``MAX_ROWS``."""
    families = view.empty_families()
    n_labels = len(view.labels)
    rows = conn.execute(view.query()).fetchall()
    for row in rows:
        # An empty label is one that Prometheus does not show.
        labels = [str(cell or "") for cell in row[:n_labels]]
        values = row[n_labels:-1]
        for column, value in zip(view.values, values, strict=True):
            # A null is no sample: Prometheus has no word for "unknown".
            if value is not None:
                families[column].add_metric(labels, float(value))
    n_dropped = 0
    if rows:
        n_all = rows[0][-1]
        n_dropped = n_all - len(rows)
    return list(families.values()), n_dropped
