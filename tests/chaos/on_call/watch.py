"""``nightshift watch`` over one world: its notices reach a webhook, and nothing else."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from tests.chaos.on_call.history import with_settings
from tests.chaos.on_call.world import World
from tests.integration.notices.receivers import Hook, running_hook

from nightshift.notices import round as notice_round
from nightshift.notices.round import Round

ADDRESS = "NIGHTSHIFT_TEST_ON_CALL_HOOK"
NOTICES = f"""
channels: {{webhook: {{pager: {{url: {{env: {ADDRESS}}}}}}}}}
otherwise: [pager]
digest_above: 50
"""


@dataclass
class Watch:
    """Looks at a world as the watch does, and keeps what people were sent.

    Attributes:
        world: What is watched.
        hook: The receiver.
        seconds: How long the slowest round took from its begin to the last notice.
    """

    world: World
    hook: Hook
    seconds: float = 0.0

    @classmethod
    @contextmanager
    def over(cls, world: World) -> Iterator[Watch]:
        """Watch a world from a home of its own, whose channel is a webhook."""
        (world.folder / "watch").mkdir()
        (world.folder / "notices.yaml").write_text(NOTICES)
        with running_hook() as hook, pytest.MonkeyPatch.context() as patch:
            patch.setenv(ADDRESS, hook.url)
            # One round is one look of the watch; it would wait for the next one a minute later.
            patch.setattr(notice_round, "EVALUATION_PATIENCE", dt.timedelta())
            yield cls(world, hook)

    def look(self) -> Round:
        """Evaluate all rules, as if none had a pause, and tell people."""
        with suppress(psycopg.errors.ReadOnlySqlTransaction):
            self.world.admin("delete from ops.incident_rules")
        settings = with_settings(
            self.world.settings,
            home=self.world.folder / "watch",
            notices_file=self.world.folder / "notices.yaml",
        )
        started = time.monotonic()
        done = notice_round.tell(settings, at=self.world.at, airflow=self.world.airflow)
        self.seconds = max(self.seconds, time.monotonic() - started)
        return done

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the incidents of the notices about one event, in the order of their arrival."""
        documents = [document for document in self.hook.documents if document["event"] == event]
        return [incident for document in documents for incident in document["incidents"]]

    @property
    def open(self) -> list[dict[str, Any]]:
        """Return the incidents that people were told of and that have not ended, as they are now.

        An incident whose first step is done names the next one.
        """
        ended = {_name(incident) for incident in self.told("closed")}
        last = [incident for incident in self.told("opened") if _name(incident) not in ended]
        for incident in last:
            query = "select command from ops.incidents where incident_id = %s"
            # An outage is on no list.
            if incident["incident_id"]:
                ((incident["command"],),) = self.world.admin(query, incident["incident_id"])
        return last


def codes_seen(world: World) -> str:
    """Return what the watch says of a world."""
    with Watch.over(world) as watch:
        watch.look()
        return "\n".join(f"[{each['code']}] {each['what']}" for each in watch.told("opened"))


def _name(incident: dict[str, Any]) -> tuple[int, str]:
    """Return what names an incident; an outage has no number, but a subject."""
    return incident["incident_id"], incident["subject"]
