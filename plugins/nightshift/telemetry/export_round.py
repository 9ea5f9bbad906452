"""One round: send to each receiver what it has not accepted yet; safe at any time.

Stages and tasks of a night send nothing themselves. A receiver that is away, slow or refuses costs
a round its time limit, and gets the rest in a later round.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nightshift.errors import cause_of
from nightshift.telemetry import otlp
from nightshift.telemetry.identifiers import deployment_of
from nightshift.telemetry.lineage import configuration
from nightshift.telemetry.night_records import read_night
from nightshift.telemetry.sent_records import (
    Receiver,
    forget_old,
    mark_sent,
    nights_to_look_at,
    sent_keys,
    sole_sender,
)
from nightshift.telemetry.spans import make_trace
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

# A backlog of many nights is sent over several rounds.
ROUND_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundResult:
    """What a round did for one receiver.

    Attributes:
        n_sent: Spans or events that it accepted.
        problem: Why the round ended early; empty if it did not.
    """

    receiver: Receiver
    n_sent: int
    problem: str = ""


class Exporter(Protocol):
    """Sends what a receiver has not accepted yet."""

    receiver: Receiver

    def send_night(self, conn: Connection, day: dt.date, sent: set[str]) -> Iterator[list[str]]:
        """Send what is new of a partition; yield the keys of each batch that was accepted.

        Raises:
            NotTakenError: The receiver did not accept a batch.
        """


class TraceExporter:
    """Sends spans over OTLP once nothing of them can still go on."""

    receiver: Receiver = "traces"

    def __init__(self, settings: Settings, now: dt.datetime) -> None:
        """Prepare.

        Args:
            settings: The deployment.
            now: What is compared with the times of the ledger.
        """
        self._settings = settings
        self._now = now

    def send_night(self, conn: Connection, day: dt.date, sent: set[str]) -> Iterator[list[str]]:
        """Send the complete spans that are new; yield their ids, batch by batch."""
        records = read_night(conn, day)
        trace = make_trace(
            deployment_of(self._settings),
            records,
            self._now,
        )
        complete = {trace.hex_id_of(span.key): span for span in trace.spans if span.is_complete}
        new = [key for key in complete if key not in sent]
        for start in range(0, len(new), otlp.MAX_BATCH):
            keys = new[start : start + otlp.MAX_BATCH]
            batch = [complete[key] for key in keys]
            otlp.send(self._settings.telemetry_name, trace, batch)
            yield keys


def is_on() -> bool:
    """Return whether any receiver is configured, by the standards' own variables."""
    return otlp.is_configured() or configuration.is_configured()


def export_new(settings: Settings, now: dt.datetime | None = None) -> list[RoundResult]:
    """Send to each configured receiver what is new; nothing is imported for one that is off.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    at = now or dt.datetime.now(dt.UTC)
    exporters: list[Exporter] = []
    if otlp.is_configured():
        exporters.append(TraceExporter(settings, at))
    if configuration.is_configured():
        otlp.require_package("openlineage.client")
        from nightshift.telemetry.lineage.exporter import LineageExporter

        exporters.append(LineageExporter(settings))
    if not exporters:
        return []
    # Receivers in turn: one that is away costs the other its time limit, and nothing else.
    with connect(settings, "nightshift telemetry") as conn:
        results = [_export(conn, exporter) for exporter in exporters]
        forget_old(conn)
    return results


def _export(conn: Connection, exporter: Exporter) -> RoundResult:
    receiver, until, n_sent = exporter.receiver, time.monotonic() + ROUND_SECONDS, 0
    with sole_sender(conn, receiver) as is_sole:
        if not is_sole:
            return RoundResult(
                receiver,
                0,
                "another process sends",
            )
        try:
            for day in nights_to_look_at(conn, receiver):
                if time.monotonic() > until:
                    return RoundResult(
                        receiver,
                        n_sent,
                        "the rest follows in the next round",
                    )
                sent = sent_keys(conn, receiver, day)
                for keys in exporter.send_night(conn, day, sent):
                    mark_sent(conn, receiver, day, keys)
                    n_sent += len(keys)
        except Exception as error:  # noqa: BLE001 - whatever the receiver does, the round ends
            # The next night would meet the same receiver: one time limit a round is enough.
            logger.warning("Telemetry was not taken: %s", cause_of(error))
            return RoundResult(receiver, n_sent, cause_of(error))
    return RoundResult(receiver, n_sent)
