"""Rules about what a model stands on: its champion's files, and its evidence."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, cause_of
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.lake.object_errors import ObjectCorruptError, ObjectMissingError
from nightshift.registry.evidence import EvidenceError, verify_chain

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext
    from nightshift.lake.object_store import ObjectStore

LOST_FILE = "NS-LAKE-002"
# Records of one evaluation: less than a second. A longer history is verified in turns.
MAX_RECORDS = 100
TURN = dt.timedelta(minutes=2)
# Of all champions' files: a fraction of a second, also from a distant store.
MAX_READ_BYTES = 16 * 1024**2


def champion_files(context: EvaluationContext) -> Findings:
    """Yield the champions whose files are gone, empty or damaged.

    A night that meets such a file falls back. Seen by day, it is made again before the night.
    """
    store = context.store
    rows = context.conn.execute(_CHAMPIONS, [list(context.specs)]).fetchall()
    champions = [ServingVersion(*row) for row in rows]
    open_keys = set(context.open_keys("champion files"))
    sizes = {champion.model: sum(champion.sizes) for champion in champions}
    chosen = open_keys | _models_of_this_turn(context, sizes, MAX_READ_BYTES)
    try:
        for champion in champions:
            lost = _lost(store, champion)
            if lost:
                yield _unusable(context, champion, LOST_FILE, "gone or empty", lost)
                continue
            # A listing tells what is gone; only reading tells what is damaged.
            if champion.model not in chosen:
                continue
            damaged = _damaged(store, champion)
            if damaged:
                yield _unusable(
                    context,
                    champion,
                    ObjectCorruptError.code,
                    "damaged",
                    damaged,
                )
    except NightshiftError:
        # `object_store` reports a store that does not answer; the files are as they were.
        for key in open_keys:
            yield Unchecked(key)


@dataclass(frozen=True)
class ServingVersion:
    """The newest champion of a model.

    Attributes:
        model: The model.
        version: Its version.
        day: The partition whose night has trained it.
        keys: Object keys of its two files.
        digests: Their SHA-256, hex.
        sizes: Their bytes; 0 where that was not recorded.
    """

    model: str
    version: int
    day: dt.date
    keys: list[str]
    digests: list[str]
    sizes: list[int]


_CHAMPIONS = """
select distinct on (s.model) s.model, v.version, v.partition_date,
    array[v.model_key, v.metadata_key], array[v.model_sha256, v.metadata_sha256],
    array[coalesce(v.model_bytes, 0), coalesce(v.metadata_bytes, 0)]
from ml.succession s join ml.model_versions v using (model, version)
where s.model = any(%s)
order by s.model, s.effective_partition desc, s.promotion_id desc
"""


def _lost(store: ObjectStore, champion: ServingVersion) -> list[str]:
    """Return the keys that are gone or empty.

    By a listing: it tells a bucket that does not exist from an object that does not.
    """
    sizes: dict[str, int] = {}
    for folder in {key.rpartition("/")[0] for key in champion.keys}:
        sizes |= {listed.key: listed.n_bytes for listed in store.list_objects(f"{folder}/")}
    return [key for key in champion.keys if not sizes.get(key)]


def _damaged(store: ObjectStore, champion: ServingVersion) -> list[str]:
    """Return the keys of objects that are not what was registered."""
    damaged = []
    pairs = zip(champion.keys, champion.digests, strict=True)
    for key, digest in pairs:
        # Every byte is read; nothing of it is kept.
        try:
            store.verify(key, digest)
        except ObjectCorruptError:
            damaged.append(key)
    return damaged


def _unusable(
    context: EvaluationContext,
    champion: ServingVersion,
    code: str,
    how: str,
    keys: list[str],
) -> Fact:
    """Return the fact about a champion that cannot be loaded.

    Args:
        context: The evaluation.
        champion: Its version.
        code: Of the error that loading it raises.
        how: What its files are now.
        keys: Keys of the objects; at least one.
    """
    # A training is reproducible: the same night gives the same bytes under the same key, and
    # replaces what is damaged there.
    names = ", ".join(keys)
    version = f"{champion.model}, version {champion.version}"
    return Fact(
        code=code,
        severity="warning",
        health="degraded",
        subject_type="model",
        subject=champion.model,
        what=f"Files of the champion of {version}, are {how}: {names}.",
        consequence="The next night is scored by the champion before it, else by the last scores.",
        command=f"nightshift train {champion.model} {champion.day}",
        owner=context.owner_of(champion.model),
        models=(champion.model,),
        size=len(keys),
        facts={"version": champion.version, "objects": keys},
    )


def broken_evidence(context: EvaluationContext) -> Findings:
    """Yield the models whose chain of evidence does not verify; long histories have their turn."""
    # Only decisions with a record: a rollback has none of its own.
    store = context.store
    counts: dict[str, int] = dict(context.conn.execute(_RECORDS).fetchall())
    chosen = _models_of_this_turn(context, counts, MAX_RECORDS)
    for model in counts:
        if model not in chosen:
            yield Unchecked(model)
            continue
        try:
            verify_chain(context.settings, store, context.conn, model)
        except (EvidenceError, ObjectMissingError, ObjectCorruptError) as error:
            yield _broken_chain(context, model, error)
        except NightshiftError:
            # A store that is away has its own incident, and says nothing about records.
            yield Unchecked(model)


_RECORDS = """
select model, count(*) from ml.promotions where evidence_sha256 is not null group by 1 order by 1
"""


def _models_of_this_turn(
    context: EvaluationContext, counts: dict[str, int], maximum: int
) -> set[str]:
    """Return the models whose records or bytes this evaluation can afford to read."""
    names = list(counts)
    start = int(context.at.timestamp() // TURN.total_seconds()) % max(len(names), 1)
    chosen: set[str] = set()
    n_read = 0
    for model in names[start:] + names[:start]:
        n_read += counts[model]
        # The first one is verified whatever its length.
        if chosen and n_read > maximum:
            break
        chosen.add(model)
    return chosen


def _broken_chain(context: EvaluationContext, model: str, error: NightshiftError) -> Fact:
    """Return the fact about a chain that breaks; the page of the code says to change nothing."""
    return Fact(
        code=EvidenceError.code,
        severity="warning",
        health="caution",
        subject_type="model",
        subject=model,
        what=f"The evidence of the decisions about {model} does not verify: {error.what}",
        consequence="Serving goes on; nobody can prove why the champion serves until a backup"
        " restores the record.",
        command=f"nightshift evidence {model}",
        owner=context.owner_of(model),
        models=(model,),
        size=1,
        facts={"cause": cause_of(error)},
    )
