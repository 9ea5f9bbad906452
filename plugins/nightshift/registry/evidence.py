"""The evidence record of a decision: one JSON object, written once, named by its digest.

Records form a chain: each holds the digest of the model's previous one, and ``ml.promotions``,
which is append-only, holds the digest of each. So whoever keeps one digest elsewhere can verify
every record up to it without a key. With ``NIGHTSHIFT_EVIDENCE_KEY`` a record is also signed.
Source: docs/adr/0017-evidence-gate.md.
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
    """There is no decision about a version."""

    code = "NS-REGISTRY-005"


@dataclass(frozen=True)
class StoredRecord:
    """Where a record is.

    Attributes:
        key: Object key.
        sha256: Digest of the bytes, hex.
        signature: HMAC-SHA-256 of the bytes, hex; None without a key.
        page: Object key of the decision's page for people; its name has its digest.
    """

    key: str
    sha256: str
    signature: str | None
    page: str


def write_record(
    settings: Settings, store: ObjectStore, model: str, document: dict[str, Any]
) -> StoredRecord:
    """Write a record; idempotent.

    Raises:
        ObjectStoreError: The object store cannot be reached.
        ValueError: A number is not finite.
    """
    content = {"format": FORMAT, **document}
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    data = text.encode()
    # The key has the digest, so no record can be written twice with other content.
    key = content_key(f"{PREFIX}/{model}", data, ".json")
    store.put(key, data, "application/json")
    return StoredRecord(key, sha256(data).hexdigest(), _signature(settings, data), document["page"])


def read_record(settings: Settings, store: ObjectStore, record: StoredRecord) -> dict[str, Any]:
    """Read a record; verify its digest, and its signature where there is one and a key.

    Raises:
        ObjectStoreError: It is missing or was changed.
        EvidenceError: The signature is not that of the bytes.
    """
    data = store.get(record.key, record.sha256)
    expected = _signature(settings, data)
    # A record from before the key was set has no signature; its digest still holds.
    if expected and record.signature and not hmac.compare_digest(expected, record.signature):
        raise EvidenceError(
            f"The signature of {record.key} is not that of its bytes.",
            todo="Is NIGHTSHIFT_EVIDENCE_KEY the key of that time? If so, somebody wrote this "
            "record without it.",
        )
    document: dict[str, Any] = json.loads(data)
    return document


def last_digest(conn: Connection, model: str) -> str | None:
    """Return the digest of the model's last record, None before the first."""
    query = """
        select evidence_sha256 from ml.promotions
        where model = %s and evidence_sha256 is not null order by promotion_id desc limit 1
    """
    row = conn.execute(query, [model]).fetchone()
    return None if row is None else str(row[0])


def find_entry(conn: Connection, model: str, version: int | None = None) -> StoredRecord:
    """Return where the evidence of the last decision is, about one version or any.

    Raises:
        NoEvidenceError: There is none.
    """
    row = conn.execute(
        """
        select evidence_key, evidence_sha256, evidence_signature, evidence_page from ml.promotions
        where model = %(model)s and evidence_sha256 is not null
            and (%(version)s::bigint is null or version = %(version)s)
        order by promotion_id desc limit 1
        """,
        {"model": model, "version": version},
    ).fetchone()
    if row is None:
        about = f"version {version}" if version else "any version"
        raise NoEvidenceError(
            f"There is no decision about {about} of {model}.",
            todo="`nightshift models` lists the decisions; a rollback has no evidence of its own.",
        )
    return StoredRecord(*row)


def verify_chain(settings: Settings, store: ObjectStore, conn: Connection, model: str) -> int:
    """Verify every record of a model against its row and its predecessor; return their number.

    Raises:
        ObjectStoreError: A record is missing or was changed.
        EvidenceError: A record is of another decision, or its predecessor is not the one before it.
    """
    rows = conn.execute(
        """
        select evidence_key, evidence_sha256, evidence_signature, evidence_page,
            version, verdict, reasons
        from ml.promotions
        where model = %s and evidence_sha256 is not null order by promotion_id
        """,
        [model],
    ).fetchall()
    # The first record has no predecessor. A missing one breaks the chain at the next.
    previous = None
    for *location, version, verdict, reasons in rows:
        stored = StoredRecord(*location)
        record = read_record(settings, store, stored)
        expected = {
            "previous": previous,
            "model": model,
            "version": version,
            "verdict": verdict,
            "reasons": list(reasons),
        }
        different = [name for name, value in expected.items() if record.get(name) != value]
        if different:
            raise EvidenceError(
                f"The evidence of version {version} of {model} does not match its row or the "
                "record before it.",
                expected=json.dumps({name: expected[name] for name in different}),
                got=json.dumps({name: record.get(name) for name in different}),
                todo="Compare ml.promotions with a backup: a row or a record was replaced.",
            )
        previous = stored.sha256
    return len(rows)


def _signature(settings: Settings, data: bytes) -> str | None:
    key = settings.evidence_key.get_secret_value()
    return hmac.new(key.encode(), data, sha256).hexdigest() if key else None
