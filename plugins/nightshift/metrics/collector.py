"""Read every metric from the warehouse: one read-only transaction, with a limit in time and series.

The views of schema ``metrics`` say what there is (``metric_views``); only what needs a model's spec
is computed here (``model_deadlines``). Source: docs/metrics.md.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from nightshift.errors import NightshiftError
from nightshift.metrics.metric_views import PREFIX, metric_views, read_view
from nightshift.metrics.model_deadlines import ScoreSourceCounts, model_families
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

# A scrape that Prometheus has given up (10 s by default) helps nobody.
STATEMENT_TIMEOUT_SECONDS = 3
READ_SECONDS = 8.0
# Several Prometheus servers, or an impatient person, cost the warehouse no more than one.
MIN_SECONDS_BETWEEN_READS = 5.0
MODELS = "models"
"""In ``read_failed``: the metrics that no view has."""
Families = list[GaugeMetricFamily]


class Reading:
    """What one read of the warehouse gave, and what it did not give.

    Attributes:
        families: The metrics.
        failed: 1 for each view that gave no answer in time.
        dropped: Rows beyond the limit of series, by view.
        problem: 1 for the code of the reason why the warehouse did not answer; empty if it did.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.begin = time.monotonic()
        self.families: Families = []
        self.failed: dict[str, float] = {}
        self.dropped: dict[str, float] = {}
        self.problem: dict[str, float] = {}

    @property
    def until(self) -> float:
        """Return the monotonic time at which it must end."""
        return self.begin + READ_SECONDS

    @property
    def is_overdue(self) -> bool:
        """Return whether its time is over."""
        return time.monotonic() > self.until

    def result(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics of the read itself, then all others."""
        seconds = time.monotonic() - self.begin
        is_up = float(not self.problem)
        yield _gauge("up", "1 if the warehouse answered.", is_up)
        yield _gauge("read_seconds", "Duration of the read.", seconds)
        yield _labelled("read_problem", "Why the warehouse did not answer.", "code", self.problem)
        yield _labelled("read_failed", "1: gave no answer in time.", "view", self.failed)
        yield _labelled("dropped_rows", "Rows beyond the limit of series.", "view", self.dropped)
        yield from self.families


class WarehouseCollector(Collector):
    """Collect the metrics of one warehouse; safe to be scraped by several threads."""

    def __init__(self, settings: Settings, at: dt.datetime | None = None) -> None:
        """Prepare; nothing is read.

        Args:
            settings: The warehouse, and the folder of specs.
            at: The instant whose deadlines count, for a virtual clock; None is the present.
        """
        limit = {"statement_timeout_seconds": STATEMENT_TIMEOUT_SECONDS}
        self._settings = settings.model_copy(update=limit)
        self._at = at
        self._score_sources = ScoreSourceCounts()
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._result: Families = []

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: the registry then reads no warehouse when the collector is added."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics; a warehouse that does not answer is ``nightshift_up 0``."""
        with self._lock:
            age = time.monotonic() - self._read_at
            if age >= MIN_SECONDS_BETWEEN_READS:
                self._result = list(self._read().result())
                self._read_at = time.monotonic()
            result = self._result
        yield from result

    def _read(self) -> Reading:
        reading = Reading()
        try:
            with connect(self._settings, "nightshift metrics") as conn:
                self._read_warehouse(conn, reading)
        except NightshiftError as error:
            # A code has few values; the message itself would be a label without bound.
            reading.problem[error.code] = 1.0
        except Exception as error:  # noqa: BLE001 - a scrape always gets an answer
            reading.problem[type(error).__name__] = 1.0
        return reading

    def _read_warehouse(self, conn: Connection, reading: Reading) -> None:
        # One snapshot: no metric is newer than another of the same scrape.
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read read only")
            for view in metric_views(conn):
                _read_part(conn, reading, view.name, partial(read_view, conn, view))
            _read_part(conn, reading, MODELS, partial(self._models, conn, reading))

    def _models(self, conn: Connection, reading: Reading) -> tuple[Families, int]:
        at = self._at or dt.datetime.now(dt.UTC)
        counts = self._score_sources
        families = model_families(conn, self._settings, counts, at, reading.until)
        return list(families), 0


def _read_part(
    conn: Connection, reading: Reading, name: str, read: Callable[[], tuple[Families, int]]
) -> None:
    """Read one part in a savepoint: a slow or broken view takes no other with it."""
    import psycopg

    if reading.is_overdue:
        reading.failed[name] = 1.0
        return
    try:
        with conn.transaction():
            families, n_dropped = read()
    except psycopg.Error:
        # A lost connection is the whole scrape's problem, not this view's.
        if conn.closed:
            raise
        reading.failed[name] = 1.0
        return
    reading.families.extend(families)
    if n_dropped:
        reading.dropped[name] = n_dropped


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
