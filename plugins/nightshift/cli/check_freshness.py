"""``nightshift check-freshness``: is everything published that must stand? For cron, systemd or a person; needs no Airflow."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.document_folder import combined_error
from nightshift.contracts.partitions import operating_timezone
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.errors import SpecError
    from nightshift.monitoring.freshness import Freshness, Punctuality
    from nightshift.settings import Settings

LATE, COULD_NOT_LOOK, WRONG_FILE = 1, 2, 3


class LateError(NightshiftError):
    """Predictions that must stand are not published."""

    code = "NS-FRESH-001"


class WrongFileError(NightshiftError):
    """A spec or contract cannot be read; all others were judged."""

    code = "NS-SPEC-003"


class InstantError(NightshiftError):
    """``--at`` is not an instant."""

    code = "NS-FRESH-003"


def check_freshness(
    at: Annotated[
        str,
        typer.Option(
            help="Look as of this instant, ISO 8601, in operating time unless it has an offset; by default now."
        ),
    ] = "",
    notify: Annotated[
        bool,
        typer.Option(
            "--notify", help="Tell NIGHTSHIFT_NOTIFY_COMMAND and NIGHTSHIFT_NOTIFY_URL when late."
        ),
    ] = False,
) -> None:
    """Compare what is published with each spec's deadline.

    Exits with 0: on time; 1: late; 2: could not look; 3: on time as far as the specs can be read,
    and a spec or contract is wrong.
    """
    settings: Settings | None = None
    try:
        settings = load_settings()
        found, wrong = _look(settings, _instant(at))
    except Exception as error:  # noqa: BLE001  (whatever kept us from looking: it must not pass for on time)
        what = (
            str(error) if isinstance(error, NightshiftError) else f"{type(error).__name__}: {error}"
        )
        sys.stderr.write(f"Could not look.\n{what}\n")
        _tell(settings if notify else None, {"event": "could not look", "reason": what})
        raise typer.Exit(COULD_NOT_LOOK) from None
    _show(found)
    if found.late:
        sys.stderr.write(f"{_late(found)}\n")
    if wrong:
        sys.stderr.write(f"{wrong}\n")
    if found.late or wrong:
        _tell(settings if notify else None, {**found.document(), **_wrong_document(found, wrong)})
        raise typer.Exit(LATE if found.late else WRONG_FILE)


def _wrong_document(found: Freshness, wrong: WrongFileError | None) -> dict[str, Any]:
    if wrong is None:
        return {}
    return {"event": "late" if found.late else "wrong file", "wrong": str(wrong)}


def _look(settings: Settings, at: dt.datetime) -> tuple[Freshness, WrongFileError | None]:
    """Judge every model, one whose file is wrong by its last good spec, and say which files are wrong."""
    from nightshift.contracts.datasets import Delivery, read_contracts
    from nightshift.contracts.model_spec import read_specs
    from nightshift.monitoring.freshness import check

    contracts, specs = read_contracts(settings.datasets_dir), read_specs(settings.models_dir)
    if not (specs.documents or specs.problems):
        raise InstantError(
            "There is no model to look at.",
            expected=f"specs in {settings.models_dir}",
            todo="Set NIGHTSHIFT_DAGS_DIR.",
        )
    kept = _last_good(settings, sorted(specs.broken))
    problems = [*specs.problems.values(), *contracts.problems.values()]
    judged = specs.documents | kept
    if not judged:
        raise combined_error(problems)
    daily = [one for one in contracts.documents.values() if one.delivery is Delivery.DAILY]
    unjudged = [name for name in specs.broken if name not in kept]
    return check(settings, judged, daily, at), _wrong(problems, unjudged)


def _last_good(settings: Settings, models: Sequence[str]) -> dict[str, ModelSpec]:
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.last_good_specs import last_good_spec

    if not models:
        return {}
    with connect(settings, "nightshift check-freshness") as conn:
        found = {name: last_good_spec(conn, name) for name in models}
    return {name: spec for name, spec in found.items() if spec is not None}


def _wrong(problems: Sequence[SpecError], unjudged: Sequence[str]) -> WrongFileError | None:
    if not problems:
        return None
    error = combined_error(problems)
    return WrongFileError(
        error.what,
        got=f"{error.got or ''} not judged: {', '.join(unjudged) or 'none'}".strip(),
        todo="Correct the files; a model whose file is wrong was judged by its last good spec.",
    )


def _instant(text: str) -> dt.datetime:
    from zoneinfo import ZoneInfo

    if not text:
        return dt.datetime.now(dt.UTC)
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InstantError(
            f"Not an instant: {text!r}.",
            expected="ISO 8601, for example 2013-03-05T04:30",
            todo="Correct --at.",
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=ZoneInfo(operating_timezone()))).astimezone(
        dt.UTC
    )


def _show(found: Freshness) -> None:
    from zoneinfo import ZoneInfo

    say(f"As of {found.at:%Y-%m-%d %H:%M} UTC")
    zone = ZoneInfo(operating_timezone())
    print_table(
        ("model", "partition", "deadline", "published", "rows", "status"),
        [
            (
                one.model,
                one.partition.isoformat(),
                f"{one.deadline.astimezone(zone):%Y-%m-%d %H:%M %Z}",
                f"{one.published_at:%Y-%m-%d %H:%M} UTC"
                if one.published_at
                else f"no; newest is {one.newest or 'none'}",
                ", ".join(f"{n} {step}" for step, n in one.n_rows.items()) or "-",
                f"{one.status}{f', {len(one.missing_before)} before it missing' if one.missing_before else ''}",
            )
            for one in found.models
        ],
    )
    print_table(
        ("input", "newest partition", "days behind"),
        [
            (
                one.dataset,
                str(one.newest or "none"),
                "-" if one.days_behind is None else str(max(one.days_behind, 0)),
            )
            for one in found.inputs
        ],
    )


def _late(found: Freshness) -> LateError:
    names = ", ".join(_late_one(one) for one in found.late)
    return LateError(
        f"Late: {names}.",
        expected="predictions published before their deadline",
        todo="docs/runbooks/README.md, 'The night did not publish'; `nightshift rescue <model> --night <day>` publishes what is possible.",
    )


def _late_one(one: Punctuality) -> str:
    if one.missing_before:
        return f"{one.model} of {', '.join(str(day) for day in one.missing_before)}, and the last due partition is {one.partition}"
    return f"{one.model} of {one.partition} (due {one.deadline:%H:%M} UTC)"


def _tell(settings: Settings | None, document: dict[str, Any]) -> None:
    """Notify if that was asked for; a failure is printed, and the exit code keeps saying what was found."""
    from nightshift.monitoring.notification import NotificationError, notify

    if settings is None:
        return
    try:
        say(f"Told by {' and '.join(notify(settings, document))}.")
    except NotificationError as error:
        sys.stderr.write(f"{error}\n")
