"""Record every act of a person: what, who, why, when, and the outcome as read back.

One function, ``recorded_act``, serves both doors: the command line and Airflow. The row of an act
is written before the act begins, so that a killed one is on record too.
Source: docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError, cause_of
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

REDACTED = "…"
MAX_TEXT = 500
"""Characters of a reason or an argument that are kept."""
_SECRET_NAME = re.compile(r"passw|secret|token|credential|(^|_)key$", re.IGNORECASE)
# Under such a name, but no secret: an object of upstream, a plan, a partition.
_PUBLIC_VALUE = re.compile(r"landing/.*|(plan|migrate)-[0-9a-f]+|\d{4}-\d\d-\d\d", re.DOTALL)
# A login within a URL: `s3://user:secret@host`.
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


class NoReasonError(NightshiftError):
    """An act that changes what readers see was requested without a reason."""

    code = "NS-ACT-001"


class NotRecordedError(NightshiftError):
    """An act could not be recorded, so it did not take place."""

    code = "NS-ACT-002"
    is_retryable = True


@dataclass(frozen=True)
class Act:
    """What a person asks for.

    Attributes:
        name: Stable name, for example ``drop.withdraw``.
        door: How it came.
        actor: Who asks: ``cli:<user>`` or ``airflow:<user>``.
        reason: Why; required where the act changes what readers see.
        arguments: What is asked for.
        private: Names of arguments that may hold values of rows: they are recorded redacted.
        needs_reason: Refuse the act without a reason.
        must_be_recorded: Refuse the act when it cannot be recorded. False for what a broken
            warehouse must not stop, such as a rescue: then the log says so.
    """

    name: str
    door: Literal["cli", "airflow"]
    actor: str
    reason: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    private: frozenset[str] = frozenset()
    needs_reason: bool = False
    must_be_recorded: bool = True


@dataclass
class RunningAct:
    """An act that is running.

    Attributes:
        act_id: Identity in ``ops.acts``; None where it could not be recorded.
        run_ids: Runs of the act: what they published is read back at the end.
        read_back: What the caller read back itself; it is recorded with the outcome.
    """

    act_id: int | None
    run_ids: set[str] = field(default_factory=set)
    read_back: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[RunningAct | None] = ContextVar("running_act", default=None)


def note_run(run_id: str) -> None:
    """Tell the running act, if there is one, that a run belongs to it."""
    act = _current.get()
    if act is not None:
        act.run_ids.add(run_id)


@contextmanager
def recorded_act(settings: Settings, act: Act) -> Iterator[RunningAct]:
    """Record an act, run the block, and record the outcome as read back.

    Raises:
        NoReasonError: The act needs a reason and has none.
        NotRecordedError: The warehouse did not take the record; the block was not run.
    """
    # An act within an act, such as a stage of a plan, belongs to the outer one.
    if _current.get() is not None:
        yield RunningAct(None)
        return
    running = begin_act(settings, act)
    token = _current.set(running)
    # Also an interruption and an exit code are outcomes.
    try:
        yield running
    except BaseException as error:
        code = error.code if isinstance(error, NightshiftError) else type(error).__name__
        running.read_back.setdefault("error", cause_of(error)[:MAX_TEXT])
        end_act(settings, act, running, code)
        raise
    else:
        end_act(settings, act, running)
    finally:
        _current.reset(token)


def begin_act(settings: Settings, act: Act) -> RunningAct:
    """Record an act that begins now; ``end_act`` records how it ended.

    Raises:
        NoReasonError: The act needs a reason and has none.
        NotRecordedError: The warehouse did not take the record: the act must not take place.
    """
    if act.needs_reason and not act.reason.strip():
        raise NoReasonError(
            f"{act.name} changes what readers see and has no reason.",
            expected="a reason, kept with your name in ops.acts",
            todo='Repeat it with --reason "…".',
        )
    try:
        return RunningAct(_insert(settings, act))
    except Exception as error:
        if act.must_be_recorded:
            raise NotRecordedError(
                f"{act.name} was not recorded, so it did not take place.",
                got=cause_of(error),
                todo="Check `nightshift status`; an old warehouse needs `nightshift migrate`.",
            ) from error
        return RunningAct(None)


def _insert(settings: Settings, act: Act) -> int:
    query = """
        insert into ops.acts (door, name, actor, reason, arguments, code_version)
        values (%s, %s, %s, %s, %s, %s) returning act_id
    """
    arguments = json.dumps(redacted(act.arguments, act.private), default=str, sort_keys=True)
    reason = _shortened(act.reason)
    values = [act.door, act.name, act.actor, reason, arguments, code_version()]
    with connect(settings, "nightshift acts") as conn:
        [(act_id,)] = conn.execute(query, values).fetchall()
    return int(act_id)


def end_act(settings: Settings, act: Act, running: RunningAct, code: str | None = None) -> None:
    """Record how an act ended; what cannot be recorded is logged, since the act itself is over.

    Args:
        settings: Of the warehouse.
        act: The act.
        running: What ``begin_act`` returned.
        code: Code of the error that ended it; None for success.
    """
    outcome = "done" if code is None else "failed"
    try:
        # What could not be recorded before, such as the migration of the table, is now.
        act_id = running.act_id or _insert(settings, act)
        with connect(settings, "nightshift acts") as conn:
            read_back = _read_back(conn, act_id, running) | redacted(running.read_back)
            conn.execute(
                """
                insert into ops.act_outcomes (act_id, outcome, code, read_back)
                values (%s, %s, %s, %s) on conflict do nothing
                """,
                [act_id, outcome, code, json.dumps(read_back, default=str)],
            )
    except Exception as error:  # noqa: BLE001 - the act is over, whatever its record
        cause = cause_of(error)
        logger.warning("%s by %s (%s) is not on record: %s.", act.name, act.actor, outcome, cause)


def _read_back(conn: Connection, act_id: int, running: RunningAct) -> dict[str, Any]:
    """Return what the runs of an act published and decided since it began."""
    values = {"act": act_id, "runs": sorted(running.run_ids)}
    read_back: dict[str, Any] = {}
    for dataset, event, n, rows in conn.execute(_LEDGER_EVENTS, values):
        events = read_back.setdefault("ledger", {}).setdefault(dataset, {})
        events[event] = {"partitions": n, "rows": rows}
    decisions = conn.execute(_DECISIONS, values).fetchall()
    if decisions:
        read_back["decisions"] = [
            f"{model} v{version}: {what}" for model, version, what in decisions
        ]
    return read_back


_LEDGER_EVENTS = """
select dataset, event, count(*), coalesce(sum(n_rows), 0)::bigint
from ops.ledger
where run_id = any(%(runs)s) and at >= (select at from ops.acts where act_id = %(act)s)
group by 1, 2 order by 1, 2
"""
_DECISIONS = """
select model, version, verdict
from ml.promotions
where run_id = any(%(runs)s) and at >= (select at from ops.acts where act_id = %(act)s)
order by promotion_id
"""


def redacted(arguments: Mapping[str, Any], private: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return arguments without secrets and without values of rows.

    A private text ``column=value`` keeps its column. Long texts are cut.
    """
    return {name: _redacted(name, value, private) for name, value in arguments.items()}


# Arguments come from forms and programs: any JSON.
def _redacted(name: str, value: Any, private: frozenset[str]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return redacted(value, private)
    if isinstance(value, list | tuple):
        return [_redacted(name, part, private) for part in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    if name in private:
        column, equals, _ = text.partition("=")
        return f"{column}={REDACTED}" if equals else REDACTED
    if _SECRET_NAME.search(name) and not _PUBLIC_VALUE.fullmatch(text):
        return REDACTED
    return _shortened(_LOGIN.sub(f"{REDACTED}@", text))


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + REDACTED


@dataclass(frozen=True)
class RecordedAct:
    """One row of ``ops.people_acts``."""

    act_id: int
    at: dt.datetime
    door: str
    name: str
    actor: str
    reason: str
    arguments: Mapping[str, Any]
    outcome: str
    code: str | None
    read_back: Mapping[str, Any] | None
    ended_at: dt.datetime | None


def list_acts(
    conn: Connection,
    *,
    since: dt.datetime | None = None,
    name: str = "",
    actor: str = "",
    limit: int = 50,
) -> Sequence[RecordedAct]:
    """Return the newest acts, the newest first.

    Args:
        conn: Any connection of the warehouse.
        since: Only acts from then on, UTC.
        name: Only acts whose name begins so.
        actor: Only acts of this actor, with or without its door.
        limit: At most so many.
    """
    from psycopg.rows import class_row

    query = """
        select act_id, at, door, name, actor, reason, arguments, outcome, code, read_back, ended_at
        from ops.people_acts
        where at >= coalesce(%(since)s, '-infinity'::timestamptz) and starts_with(name, %(name)s)
            and (%(actor)s = '' or actor = %(actor)s or actor = door || ':' || %(actor)s)
        order by act_id desc limit %(limit)s
    """
    values = {"since": since, "name": name, "actor": actor, "limit": limit}
    with conn.cursor(row_factory=class_row(RecordedAct)) as cursor:
        return cursor.execute(query, values).fetchall()
