"""Rebuild a training set from its manifest: the recorded query over the recorded loads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.lake.snapshots import digest_of
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_POINTER = re.compile(r'join ops\.published "?p"? on')
"""What a recorded query joins; a release may quote the alias, and old queries stay as they are."""


class ManifestUnreadableError(NightshiftError):
    """A training set's manifest cannot be used to rebuild it."""

    code = "NS-REPRO-004"


@dataclass(frozen=True)
class RebuiltTrainingSet:
    """A training set and its rebuild.

    Attributes:
        key: Its object key.
        n_rows: Rows as recorded.
        n_rows_rebuilt: Rows of the rebuild.
        sha256: Recorded content hash, hex.
        sha256_rebuilt: Content hash of the rebuild.
    """

    key: str
    n_rows: int
    n_rows_rebuilt: int
    sha256: str
    sha256_rebuilt: str

    @property
    def is_equal(self) -> bool:
        """Return whether the rebuild has the same bytes."""
        return self.sha256 == self.sha256_rebuilt


def rebuild_training_set(settings: Settings, model: str, version: int) -> RebuiltTrainingSet:
    """Run the manifest's query on the loads that it names, and hash the rows; nothing is written.

    Raises:
        RegistryError: The version does not exist.
        ManifestUnreadableError: The manifest has no query or no loads.
    """
    from nightshift.registry.model_loader import find_version

    with connect(settings, "nightshift repro") as conn:
        key = find_version(conn, model, version).training_set
        n_rows, sha256, manifest, dataset = _recorded(conn, key)
    pinned = pinned_query(manifest, dataset, key)
    rows = read_arrow(settings, pinned, "nightshift repro", is_label_query=True)
    return RebuiltTrainingSet(key, n_rows, rows.num_rows, sha256, digest_of(rows))


def _recorded(conn: Connection, key: str) -> tuple[int, str, dict[str, Any], str]:
    # The manifest names loads; the ledger knows whose feature view they are.
    row = conn.execute(
        """
        select t.n_rows, t.sha256, t.manifest, (
            select l.dataset from ops.loads l
            where l.load_id = (t.manifest #>> '{partitions,0,load_id}')::bigint
                and l.dataset like 'features/%%' limit 1)
        from ml.training_sets t where t.training_set = %s
        """,
        [key],
    ).fetchone()
    n_rows, sha256, manifest, dataset = row or (0, "", {}, None)
    if dataset is None or not manifest.get("query"):
        raise ManifestUnreadableError(
            f"The manifest of {key} cannot be used.",
            expected="a query and feature loads",
            todo="Only training sets with a recorded manifest can be rebuilt.",
        )
    return n_rows, sha256, manifest, dataset


def pinned_query(manifest: dict[str, Any], dataset: str, key: str) -> sql.Composed:
    """Return the recorded query, reading the recorded loads instead of the published ones."""
    from psycopg import sql

    # The pointer moved on since: only the recorded loads give the recorded rows.
    query = str(manifest["query"])
    if len(_POINTER.findall(query)) != 1:
        raise ManifestUnreadableError(
            f"The query of {key} does not join ops.published exactly once.",
            todo="Another code version made it: check out that version.",
        )
    loads = []
    for part in manifest["partitions"]:
        load = sql.SQL("({}, {}::date, {}::bigint)").format(
            sql.Literal(dataset),
            sql.Literal(part["partition"]),
            sql.Literal(part["load_id"]),
        )
        loads.append(load)
    pinned = sql.SQL("join (values {}) as p (dataset, partition_date, load_id) on")
    values = sql.SQL(", ").join(loads)
    before, after = map(sql.SQL, _POINTER.split(query))
    return before + pinned.format(values) + after
