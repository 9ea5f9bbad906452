"""A small project for drops of all kinds.

One contract, a bucket, a warehouse, and manifests as somebody else writes them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.databases import own_database

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

from nightshift.contracts.datasets import load_contract, load_contracts
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion.late_arrivals import LateLoad, load_late_drops
from nightshift.ingestion.load import IngestResult, ingest
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate

HEADER = "shop,hour_at,visitors,valid_to\n"
CONTRACT = {
    "name": "visits",
    "description": "d",
    "schema_version": 1,
    "timezone": "America/New_York",
    "delivery": "daily",
    "history_start": "2013-01-01",
    "grain": "one shop and hour",
    "key": ["shop", "hour_at"],
    "event_timestamp": "hour_at",
    "columns": [
        {"name": "shop", "type": "text"},
        {"name": "hour_at", "type": "local_timestamp"},
        {"name": "visitors", "type": "integer"},
        {"name": "valid_to", "type": "local_timestamp", "is_nullable": True, "default": ""},
    ],
    "maximum_refused_ratio": 0.02,
}


def good_file(day: dt.date, n_rows: int = 24) -> bytes:
    """Return counts of one shop, a second apart.

    At a time of the day that no clock change touches.
    """
    rows = (
        f"hill,{day} {10 + n // 3600}:{n // 60 % 60:02d}:{n % 60:02d},{n},\n" for n in range(n_rows)
    )
    return (HEADER + "".join(rows)).encode()


class HostileWorld:
    """What a test does: deliver, load, look."""

    def __init__(self, settings: Settings, conn: Connection) -> None:
        self.settings, self.conn, self.run = settings, conn, RunContext("test/hostile", 1, "test")
        self.store = ObjectStore.open(settings)

    def contract(self, **changes: Any) -> None:
        folder, suites = self.settings.datasets_dir, self.settings.expectations_dir / "raw"
        for one in (folder, suites):
            one.mkdir(parents=True, exist_ok=True)
        (folder / "visits.yaml").write_text(json.dumps(CONTRACT | changes))
        suite = {
            "name": "raw/visits",
            "expectations": [
                {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 0}}
            ],
        }
        (suites / "visits.json").write_text(json.dumps(suite))
        load_contract.cache_clear()
        migrate(self.conn, load_contracts(folder))

    def bring(
        self,
        day: dt.date,
        data: bytes | None,
        n: int,
        name: str = "a",
        suffix: str = ".csv",
        hour: int = 4,
        **said: Any,
    ) -> dict[str, Any]:
        """Write a file, unless it is None, and its manifest.

        ``said`` replaces what the manifest says.
        """
        folder = f"landing/visits/dt={day}/"
        at = dt.datetime.combine(day, dt.time(hour), dt.UTC) + dt.timedelta(days=1)
        manifest = {
            "dataset": "visits",
            "partition": str(day),
            "delivered_at": at.isoformat(),
            "data_key": f"{folder}{name}{suffix}",
            "sha256": sha256(data or b"").hexdigest(),
            "n_rows": n,
            "schema_version": 1,
            **said,
        }
        if data is not None:
            self.store.put(f"{folder}{name}{suffix}", data)
        self.bring_manifest(day, json.dumps(manifest).encode(), name)
        return manifest

    def bring_manifest(self, day: dt.date, text: bytes, name: str = "a") -> str:
        key = f"landing/visits/dt={day}/{name}.manifest.json"
        self.store.put(key, text)
        return key

    def ingest(self, first: dt.date, last: dt.date | None = None) -> IngestResult:
        return ingest(
            self.settings, "visits", PartitionRange.of(str(first), str(last or first)), self.run
        )

    def sweep(self, first: dt.date, last: dt.date | None = None) -> LateLoad:
        return load_late_drops(
            self.settings, "visits", PartitionRange.of(str(first), str(last or first)), self.run
        )

    def rows(self, day: dt.date) -> int:
        """Return how many rows readers see of a day."""
        query = """
            select count(*) from raw.visits join ops.published p using (partition_date, load_id)
            where p.dataset = 'raw/visits' and partition_date = %s
        """
        (n_rows,) = self.conn.execute(query, [day]).fetchone() or (0,)
        return int(n_rows)

    def refusals(self, day: dt.date) -> list[tuple[str, str]]:
        """Return code and reason of each refusal of a day, in their order."""
        query = (
            "select code, reason from quarantine.refused_drops where partition_date = %s "
            "order by quarantined_at"
        )
        return list(self.conn.execute(query, [day]).fetchall())

    def unfinished(self) -> list[tuple[int, str]]:
        """Return loads that are neither published nor refused."""
        query = "select load_id, state from ops.loads where state in ('staged', 'audited')"
        return list(self.conn.execute(query).fetchall())

    def versions(self, day: dt.date) -> list[tuple[dt.datetime, int]]:
        """Return since when each version was what we knew, and its rows."""
        query = (
            "select known_at, n_rows from ops.raw_versions where partition_date = %s order "
            "by known_at"
        )
        return list(self.conn.execute(query, [day]).fetchall())


@contextmanager
def hostile_world(
    session_settings: Settings, template: str, folder: Path
) -> Iterator[HostileWorld]:
    """Yield a world with a database and a bucket of its own."""
    folders = {
        "home": folder,
        "dags_dir": folder / "dags",
        "expectations_dir": folder / "expectations",
    }
    with own_database(session_settings, template) as own:
        settings = own.model_copy(update=folders)
        try:
            with connect(settings, "test") as conn:
                world = HostileWorld(settings, conn)
                world.store.ensure_bucket()
                world.contract()
                yield world
        finally:
            load_contract.cache_clear()
