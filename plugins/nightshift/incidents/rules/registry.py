"""Rules about what a model stands on: its champion's files, its evidence, its spec."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, cause_of
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.incidents.rules.services import quick_store, restore_command
from nightshift.lake.object_errors import ObjectCorruptError, ObjectMissingError
from nightshift.registry.evidence import EvidenceError, verify_chain

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext
    from nightshift.lake.object_store import ObjectStore

LOST_FILE = "NS-LAKE-002"
# After four weeks without a publication people have decided that the model ends.
HORIZON = dt.timedelta(days=28)
# Records of one evaluation: less than a second. A longer history is verified in turns.
MAX_RECORDS = 100
TURN = dt.timedelta(minutes=2)


def champion_files(context: EvaluationContext) -> Findings:
    """Yield the champions whose files are gone or empty.

    A night that meets such a file falls back. Seen by day, it is made again before the night.
    """
    store = quick_store(context)
    rows = context.conn.execute(_CHAMPIONS, [list(context.specs)]).fetchall()
    try:
        for model, version, day, *files in rows:
            lost = _lost(store, files)
            if lost:
                yield _lost_files(context, model, version, day, lost)
    except NightshiftError:
        # `object_store` reports a store that does not answer; the files are as they were.
        for key in context.open_keys("champion files"):
            yield Unchecked(key)


_CHAMPIONS = """
select distinct on (s.model) s.model, v.version, v.partition_date, v.model_key, v.metadata_key
from ml.succession s join ml.model_versions v using (model, version)
where s.model = any(%s)
order by s.model, s.effective_partition desc, s.promotion_id desc
"""


def _lost(store: ObjectStore, files: list[str]) -> list[str]:
    """Return the keys that are gone or empty.

    By a listing: it tells a bucket that does not exist from an object that does not.
    """
    sizes: dict[str, int] = {}
    for folder in {key.rpartition("/")[0] for key in files}:
        sizes |= {listed.key: listed.n_bytes for listed in store.list_objects(f"{folder}/")}
    return [key for key in files if not sizes.get(key)]


def _lost_files(
    context: EvaluationContext, model: str, version: int, day: dt.date, lost: list[str]
) -> Fact:
    """Return the fact about a champion that cannot be loaded.

    Args:
        context: The evaluation.
        model: The model.
        version: Its champion.
        day: The partition whose night has trained it.
        lost: Keys of the objects that are gone or empty; at least one.
    """
    # A training is reproducible: the same night gives the same bytes under the same key.
    return Fact(
        code=LOST_FILE,
        severity="warning",
        health="degraded",
        subject_type="model",
        subject=model,
        what=f"Files of the champion of {model}, version {version}, are gone or empty:"
        f" {', '.join(lost)}.",
        consequence="The next night is scored by the champion before it, else by the last scores.",
        command=f"nightshift train {model} {day}",
        owner=context.owner_of(model),
        models=(model,),
        size=len(lost),
        facts={"version": version, "objects": lost},
    )


def broken_evidence(context: EvaluationContext) -> Findings:
    """Yield the models whose chain of evidence does not verify; long histories have their turn."""
    # Only decisions with a record: a rollback has none of its own.
    store = quick_store(context)
    counts: dict[str, int] = dict(context.conn.execute(_RECORDS).fetchall())
    chosen = _models_of_this_turn(context, counts)
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


def _models_of_this_turn(context: EvaluationContext, counts: dict[str, int]) -> set[str]:
    """Return the models whose records this evaluation can afford to read."""
    names = list(counts)
    start = int(context.at.timestamp() // TURN.total_seconds()) % max(len(names), 1)
    chosen: set[str] = set()
    n_records = 0
    for model in names[start:] + names[:start]:
        n_records += counts[model]
        # The first one is verified whatever its length.
        if chosen and n_records > MAX_RECORDS:
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
        consequence="Serving goes on; nobody can prove why the champion serves.",
        command=f"nightshift evidence {model}",
        owner=context.owner_of(model),
        models=(model,),
        size=1,
        facts={"cause": cause_of(error)},
    )


def removed_specs(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose file is gone while analysts still read what nobody renews.

    Its DAGs and all other rules have gone with the file. A model that ends has its views dropped.
    """
    # A file that is there and wrong is another rule's; its last good spec is known.
    known = {*context.specs, *context.spec_files.broken}
    rows = context.conn.execute(_REMOVED, {"known": list(known), "horizon": HORIZON})
    for model, owner, newest, published_at in rows:
        file = f"models/{model}.yaml"
        yield Fact(
            code="NS-SPEC-007",
            severity="warning",
            health="degraded",
            subject_type="file",
            subject=f"dags/{file}",
            what=f"The spec of {model} is gone; analysts still read its predictions of {newest}.",
            consequence="It is neither scored nor watched: its predictions grow old.",
            command=restore_command(context.settings.dags_dir, file),
            owner=owner or "",
            tables=(f"predictions/{model}",),
            models=(model,),
            size=1,
            seen_until=published_at + HORIZON,
            facts={"newest": newest},
        )


_REMOVED = """
select k.model, k.spec::jsonb ->> 'owner', newest.partition_date, newest.published_at
from ops.last_good_specs k
cross join lateral (
    select partition_date, published_at from ops.published p
    where p.dataset = 'predictions/' || k.model order by partition_date desc limit 1
) newest
where k.model <> all(%(known)s)
    and newest.published_at > clock_timestamp() - %(horizon)s::interval
    and to_regclass(format('analytics.%%I', k.model || '_current')) is not null
order by 1
"""
