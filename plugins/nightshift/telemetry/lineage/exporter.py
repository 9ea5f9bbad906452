"""Send lineage events by the standard's own client: HTTP, file, Kafka or what it is configured for.

Only imported when lineage is on.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from openlineage.client import OpenLineageClient
from openlineage.client.facet_v2 import set_producer
from openlineage.client.serde import Serde

from nightshift.errors import cause_of
from nightshift.telemetry.lineage.events import PRODUCER, NightEvents
from nightshift.telemetry.night_records import read_night
from nightshift.telemetry.otlp import NotTakenError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from nightshift.settings import Settings
    from nightshift.telemetry.sent_records import Receiver
    from nightshift.warehouse.connection import Connection

set_producer(PRODUCER)


class LineageExporter:
    """Sends the run events that a receiver has not accepted yet."""

    receiver: Receiver = "lineage"

    def __init__(self, settings: Settings) -> None:
        """Prepare; where to is said by the standard's variables or file."""
        self._settings = settings
        # Reads the standard's variables and file; nothing is sent before `emit`.
        self._client = OpenLineageClient()

    def send_night(self, conn: Connection, day: dt.date, sent: set[str]) -> Iterator[list[str]]:
        """Send the new events of a partition in their order; yield the key of each."""
        for event in night_events(
            self._settings,
            conn,
            day,
        ):
            key = key_of(event)
            if key in sent:
                continue
            try:
                self._client.emit(event)
            except Exception as error:
                raise NotTakenError(
                    f"A lineage event of {day} was not taken: {cause_of(error)}",
                    expected="a receiver that accepts it",
                    todo="See the receiver's log; what was not taken is sent again by the next"
                    " round.",
                ) from error
            yield [key]


def night_events(settings: Settings, conn: Connection, day: dt.date) -> Iterator[RunEvent]:
    """Yield the events of a partition, each run's in their order."""
    records = read_night(conn, day)
    yield from NightEvents(settings, conn, records).events()


def key_of(event: RunEvent) -> str:
    """Return what names an event among all: its run and its type."""
    state = event.eventType.value if event.eventType else ""
    return f"{event.run.runId} {state}"


def as_document(event: RunEvent) -> dict[str, Any]:
    """Return an event as it is sent."""
    document: dict[str, Any] = json.loads(Serde.to_json(event))
    return document
