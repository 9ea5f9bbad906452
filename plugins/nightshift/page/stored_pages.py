"""Pages and figures from the lake: Evidently's reports, gate pages, evidence, training figures.

A request never names an object: it names a model, a day or a decision, and the warehouse has the
key. The browser gets the object in a sandbox with an origin of its own, so that a script in it
reads neither our pages nor our cookies, and reaches no host.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from nightshift.lake.content_keys import digest_in
from nightshift.lake.object_store import ObjectStore
from nightshift.page.documents.requests import MissingPageError

if TYPE_CHECKING:
    from nightshift.page.reader import PageSnapshot

MAX_OBJECT_BYTES = 32 * 1024**2
"""Evidently's reports have about 4 MB; a larger object is no page."""
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
STATIC_POLICY = f"sandbox; {_NOTHING}; style-src 'unsafe-inline'; img-src data:"
"""Pages of gates and of evidence run no script."""
SCRIPTED_POLICY = (
    f"sandbox allow-scripts; {_NOTHING}; script-src 'unsafe-inline' 'unsafe-eval' blob: data:;"
    " style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:"
)
"""Evidently's page draws by scripts within it. Without `connect-src` they send nothing anywhere."""


@dataclass(frozen=True)
class StoredPage:
    """An object for people.

    Attributes:
        key: Object key.
        title: For the frame around it.
        content_type: MIME type.
        policy: Content security policy of the answer.
        sha256: Expected digest or its beginning; None if the warehouse knows none.
    """

    key: str
    title: str
    content_type: str = "text/html; charset=utf-8"
    policy: str = STATIC_POLICY
    sha256: str | None = None


def drift_report(snapshot: PageSnapshot, model: str, day: dt.date) -> StoredPage:
    """Return Evidently's report of a partition.

    Raises:
        MissingPageError: There is none.
    """
    query = """
        select report_key as key from monitoring.verdicts_published
        where model = %(model)s and partition_date = %(day)s and report_key is not null
    """
    key = _only_key(snapshot, query, {"model": model, "day": day})
    return StoredPage(
        key,
        f"Drift report: {model}, {day}",
        policy=SCRIPTED_POLICY,
        sha256=digest_in(key),
    )


def evidence_page(snapshot: PageSnapshot, promotion_id: int) -> StoredPage:
    """Return the evidence page of a decision; its key has its digest.

    Raises:
        MissingPageError: There is none.
    """
    query = """
        select evidence_page as key from ml.decisions
        where promotion_id = %(id)s and evidence_page is not null
    """
    key = _only_key(snapshot, query, {"id": promotion_id})
    return StoredPage(key, f"Evidence of decision {promotion_id}", sha256=digest_in(key))


def gate_page(snapshot: PageSnapshot, dataset: str, day: dt.date) -> StoredPage:
    """Return the page of the gate that let a published partition through.

    Raises:
        MissingPageError: The partition is not published.
    """
    # A gate judges all partitions of a load as one batch, and its page is named after them.
    query = """
        select s.load_id, s.attempt, min(s.partition_date)::text as first,
            max(s.partition_date)::text as last
        from ops.published p
        join ops.partition_steps s on s.step = p.dataset and s.load_id = p.load_id
        where p.dataset = %(dataset)s and p.partition_date = %(day)s and s.step_type = 'load'
        group by s.load_id, s.attempt
    """
    rows = snapshot.rows(query, {"dataset": dataset, "day": day})
    if not rows:
        raise MissingPageError(f"{dataset} of {day} is not published.")
    load = rows[0]
    # As `PartitionRange` writes itself.
    days = load["first"]
    if load["last"] != load["first"]:
        days = f"{load['first']}..{load['last']}"
    key = f"data_docs/{dataset}/{days}/{load['load_id']}-{load['attempt']}.html"
    return StoredPage(key, f"Checks: {dataset}, {day}")


def training_figure(snapshot: PageSnapshot, model: str, version: int, name: str) -> StoredPage:
    """Return a figure of a training, PNG.

    Raises:
        MissingPageError: There is none of that name.
    """
    query = """
        select figures ->> %(name)s as key from ml.decisions
        where model = %(model)s and version = %(version)s and figures ? %(name)s limit 1
    """
    values = {"model": model, "version": version, "name": name}
    key = _only_key(snapshot, query, values)
    return StoredPage(key, name, content_type="image/png", sha256=digest_in(key))


def _only_key(snapshot: PageSnapshot, query: str, values: Mapping[str, object]) -> str:
    rows = snapshot.rows(query, values)
    if not rows:
        raise MissingPageError("There is no such page in the lake.")
    return str(rows[0]["key"])


def read_page(store: ObjectStore, page: StoredPage) -> bytes:
    """Read an object.

    Raises:
        MissingPageError: It is not there, or is too large for a page.
        ObjectStoreError: The store cannot be reached.
    """
    from nightshift.lake.object_errors import ObjectMissingError

    try:
        # Before its body: an object of any size could fill the memory of the server.
        n_bytes = store.size(page.key)
        if n_bytes > MAX_OBJECT_BYTES:
            raise MissingPageError(f"{page.title} is too large for a page.", got=f"{n_bytes} bytes")
        return store.get(page.key, page.sha256, n_bytes)
    except ObjectMissingError:
        name = PurePosixPath(page.key).name
        raise MissingPageError(
            f"{page.title} is not in the lake.", got=f"no object {name}"
        ) from None
