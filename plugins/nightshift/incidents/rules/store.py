"""The rule about the object store: it is away, refuses, or has no bucket of that name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, ObjectStoreError, cause_of
from nightshift.incidents.facts import Fact
from nightshift.lake.object_errors import StoreClockError

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

# What S3 servers answer to a login that they do not accept; the rest of their answer is left out.
_REFUSALS = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "403")


def object_store(context: EvaluationContext) -> Iterator[Fact]:
    """Yield that the object store does not answer, refuses, or has no bucket of that name."""
    try:
        # One listing of a prefix that holds nothing: address, login and bucket. Without a first
        # key nothing would be sent.
        keys = context.store.list("incidents/none/")
        next(iter(keys), None)
    except NightshiftError as error:
        yield Fact(
            code=error.code,
            severity="critical",
            health="degraded",
            subject_type="service",
            subject="object store",
            what=f"{error.what} {_refusal_of(error)}".strip(),
            consequence="Nothing is ingested; tonight is scored by the last scores or the rule.",
            command=_command(error),
            tables=tuple(contract.dataset for contract in context.daily_contracts),
            models=tuple(context.specs),
            facts={"cause": cause_of(error)},
        )


def _refusal_of(error: NightshiftError) -> str:
    """Return that the store refuses the login; empty for another cause."""
    # A wrong clock and a wrong certificate have a sentence of their own.
    if error.code != ObjectStoreError.code:
        return ""
    answers = [answer for answer in _REFUSALS if answer in str(error.got)]
    return f"It refuses the login ({answers[0]})." if answers else ""


def _command(error: NightshiftError) -> str:
    """Return the command that starts what is away, or that says which setting is wrong."""
    if isinstance(error, StoreClockError):
        return "timedatectl status"
    # A bucket that is gone needs a backup, and one of another name a setting: a new, empty bucket
    # would hide both. Only a server that does not answer is started.
    is_away = error.code == ObjectStoreError.code and not _refusal_of(error)
    return "nightshift up" if is_away else "nightshift doctor"
