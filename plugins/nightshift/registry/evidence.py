"""The evidence record of a decision: one JSON object, written once, named by its digest, chained to the record before it.

The digest stands in ``ml.promotions``, which is append-only; each record holds the digest of the
model's previous one, so whoever keeps one digest elsewhere can verify every record up to it without
a key. With ``NIGHTSHIFT_EVIDENCE_KEY`` a record is signed besides. Source:
docs/adr/0017-evidence-gate.md.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.lake.content_keys import content_key

if TYPE_CHECKING:
    from nightshift.lake.object_store import ObjectStore
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

FORMAT = 1
PREFIX = "evidence"


class EvidenceError(NightshiftError):
    """A chain of evidence records does not verify."""

    code = "NS-REGISTRY-004"


class NoEvidenceError(NightshiftError):
    """Nothing was decided about a version."""

    code = "NS-REGISTRY-005"


@dataclass(frozen=True)
class StoredRecord:
    """Where a record is.

    Attributes:
        key: Object key.
        sha256: Digest of the bytes, hex.
        signature: HMAC-SHA-256 of the bytes, hex; None without a key.
    """

    key: str
    sha256: str
    signature: str | None


@dataclass(frozen=True)
class EvidenceEntry:
    """Where the evidence of one decision is.

    Attributes:
        kept: The record.
        page: Object key of the page for people; its name has its digest.
    """

    kept: StoredRecord
    page: str


def write_record(
    settings: Settings, store: ObjectStore, model: str, document: dict[str, Any]
) -> StoredRecord:
    """Write a record; the same content lands at the same key.

    Raises:
        ObjectStoreError: The object store cannot be reached.
        ValueError: A number is not finite.
    """
    data = json.dumps(
        {"format": FORMAT, **document},
        indent=1,
        sort_keys=True,
        allow_nan=False,
        ensure_ascii=False,
    ).encode()
    key = content_key(f"{PREFIX}/{model}", data, ".json")
    store.put(key, data, "application/json")
    return StoredRecord(key, sha256(data).hexdigest(), _signature(settings, data))


def read_record(settings: Settings, store: ObjectStore, kept: StoredRecord) -> dict[str, Any]:
    """Read a record, verified by its digest, and by its signature where there are one and a key.

    Raises:
        ObjectStoreError: It is missing or was changed.
        EvidenceError: The signature is not that of the bytes.
    """
    data = store.get(kept.key, kept.sha256)
    expected = _signature(settings, data)
    if expected and kept.signature and not hmac.compare_digest(expected, kept.signature):
        raise EvidenceError(
            f"The signature of {kept.key} is not that of its bytes.",
            todo="Is NIGHTSHIFT_EVIDENCE_KEY the key of that time? If so, somebody wrote this record without it.",
        )
    document: dict[str, Any] = json.loads(data)
    return document


def last_digest(conn: Connection, model: str) -> str | None:
    """Return the digest of the model's last record, None before the first."""
    row = conn.execute(
        "select evidence_sha256 from ml.promotions where model = %s and evidence_sha256 is not null order by promotion_id desc limit 1",
        [model],
    ).fetchone()
    return None if row is None else str(row[0])


def find_entry(conn: Connection, model: str, version: int | None = None) -> EvidenceEntry:
    """Return where the evidence of the last decision is, over all versions or about one.

    Raises:
        NoEvidenceError: There is none.
    """
    row = conn.execute(
        """
        select evidence_key, evidence_sha256, evidence_signature, evidence_page from ml.promotions
        where model = %(model)s and evidence_sha256 is not null and (%(version)s::bigint is null or version = %(version)s)
        order by promotion_id desc limit 1
        """,
        {"model": model, "version": version},
    ).fetchone()
    if row is None:
        raise NoEvidenceError(
            f"Nothing was decided about {f'version {version}' if version else 'any version'} of {model}.",
            todo="`nightshift models` lists the decisions; a rollback is one without evidence of its own.",
        )
    return EvidenceEntry(StoredRecord(*row[:3]), row[3])


def verify_chain(settings: Settings, store: ObjectStore, conn: Connection, model: str) -> int:
    """Read every record of a model from the first on, and compare it with its row and its predecessor.

    Returns:
        Number of records.

    Raises:
        ObjectStoreError: A record is missing or was changed.
        EvidenceError: A record is of another decision, or its predecessor is not the one before it.
    """
    rows = conn.execute(
        """
        select evidence_key, evidence_sha256, evidence_signature, version, verdict, reasons from ml.promotions
        where model = %s and evidence_sha256 is not null order by promotion_id
        """,
        [model],
    ).fetchall()
    previous = None
    for key, digest, signature, version, verdict, reasons in rows:
        record = read_record(settings, store, StoredRecord(key, digest, signature))
        expected = {
            "previous": previous,
            "model": model,
            "version": version,
            "verdict": verdict,
            "reasons": list(reasons),
        }
        if different := {
            name: record.get(name) for name, value in expected.items() if record.get(name) != value
        }:
            raise EvidenceError(
                f"The evidence of version {version} of {model} does not fit the row before or beside it.",
                expected=json.dumps({name: expected[name] for name in different}),
                got=json.dumps(different),
                todo="Compare ml.promotions with a backup: a row or a record was replaced.",
            )
        previous = digest
    return len(rows)


def _signature(settings: Settings, data: bytes) -> str | None:
    key = settings.evidence_key.get_secret_value()
    return hmac.new(key.encode(), data, sha256).hexdigest() if key else None
