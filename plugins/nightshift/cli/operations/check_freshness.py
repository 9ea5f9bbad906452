"""``nightshift check-freshness``: compare publications with deadlines, from cron or by hand.

The check needs no Airflow: a scheduler that hangs cannot report that it hangs.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from nightshift.cli.arguments import instant_or_now
from nightshift.cli.console import print_table
from nightshift.contracts.document_folder import combined_error
from nightshift.contracts.partitions import operating_timezone
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.errors import SpecError
    from nightshift.monitoring.freshness import Freshness, InputAge, Punctuality
    from nightshift.notices.delivery import ChannelResult
    from nightshift.settings import Settings

LATE, CHECK_FAILED, WRONG_FILE = 1, 2, 3
"""Exit codes. Source: docs/freshness.md."""
INSTANT = "%Y-%m-%d %H:%M"


class LateError(NightshiftError):
    """Predictions are not published although their deadline is over."""

    code = "NS-FRESH-001"


class WrongFileError(NightshiftError):
    """A spec or contract cannot be read; all others were checked."""

    code = "NS-SPEC-003"


class NoModelError(NightshiftError):
    """There is no model to check."""

    code = "NS-FRESH-003"


def check_freshness(
    at: Annotated[
        str,
        typer.Option(
            help="Check as of this instant, ISO 8601; operating time without an offset; now by"
            " default."
        ),
    ] = "",
    notify: Annotated[
        bool,
        typer.Option(
            "--notify",
            help="Evaluate all incidents too, and tell the channels of notices.yaml.",
        ),
    ] = False,
) -> None:
    """Compare what is published with each spec's deadline; needs no Airflow.

    Exits with 0: on time; 1: late; 2: the check could not run; 3: on time as far as the specs can
    be read, and a spec or contract is wrong.
    """
    settings: Settings | None = None
    try:
        settings = load_settings()
        zone = ZoneInfo(operating_timezone())
        freshness, wrong_files = _check(settings, instant_or_now(at, zone))
    # Whatever kept the check from running: it must not be taken for "on time".
    except Exception as error:  # noqa: BLE001
        reason = _describe(error)
        sys.stderr.write(f"The check could not run.\n{reason}\n")
        if settings is not None and notify:
            _tell_failed_check(settings, error)
        raise typer.Exit(CHECK_FAILED) from None

    _print_freshness(freshness)
    # Also when all is well: then people are told that what was broken is gone.
    if notify:
        _tell(settings, freshness.at if at else None)
    problems = [error for error in (_late_error(freshness), wrong_files) if error]
    if not problems:
        return
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    # A late model outranks a wrong file: cron's owner acts on the exit code alone.
    raise typer.Exit(LATE if freshness.late else WRONG_FILE)


def _check(settings: Settings, at: dt.datetime) -> tuple[Freshness, WrongFileError | None]:
    """Check every model; one whose file is wrong is checked by its last good spec.

    Returns:
        The result, and which files are wrong.
    """
    from nightshift.contracts.datasets import daily_contracts, read_contracts
    from nightshift.contracts.model_spec import read_specs
    from nightshift.monitoring.freshness import check

    contracts = read_contracts(settings.datasets_dir)
    specs = read_specs(settings.models_dir)
    if not (specs.documents or specs.problems):
        raise NoModelError(
            "There is no model to check.",
            expected=f"specs in {settings.models_dir}",
            todo="Set NIGHTSHIFT_DAGS_DIR.",
        )
    # A wrong file must not hide a late model: its last good spec has the deadline.
    last_good = _last_good_specs(settings, sorted(specs.broken))
    checkable = specs.documents | last_good
    problems = [*specs.problems.values(), *contracts.problems.values()]
    if not checkable:
        raise combined_error(problems)

    datasets = contracts.documents.values()
    daily = daily_contracts(datasets)
    freshness = check(settings, checkable, daily, at)
    unchecked = [name for name in specs.broken if name not in last_good]
    return freshness, _wrong_file_error(problems, unchecked)


def _last_good_specs(settings: Settings, models: Sequence[str]) -> dict[str, ModelSpec]:
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.last_good_specs import last_good_spec

    # The warehouse is only read when a file is wrong.
    if not models:
        return {}
    specs = {}
    with connect(settings, "nightshift check-freshness") as conn:
        for name in models:
            spec = last_good_spec(conn, name)
            if spec is not None:
                specs[name] = spec
    return specs


def _wrong_file_error(
    problems: Sequence[SpecError], unchecked: Sequence[str]
) -> WrongFileError | None:
    if not problems:
        return None
    error = combined_error(problems)
    names = ", ".join(unchecked) or "none"
    return WrongFileError(
        error.what,
        got=f"{error.got or ''} not checked: {names}".strip(),
        todo="Correct the files; a model whose file is wrong was checked by its last good spec.",
    )


def _late_error(freshness: Freshness) -> LateError | None:
    if not freshness.late:
        return None
    models = ", ".join(map(_describe_late, freshness.late))
    return LateError(
        f"Late: {models}.",
        expected="predictions published before their deadline",
        todo="docs/runbooks/README.md, 'The night did not publish';"
        " `nightshift rescue <model> --night <day>` publishes what is possible.",
    )


def _describe_late(model: Punctuality) -> str:
    name = model.model
    partition = model.partition
    if model.missing_before:
        days = ", ".join(map(str, model.missing_before))
        return f"{name} of {days}, and the last due partition is {partition}"
    # It was published in time: the repair is another than that of a night that did not run.
    if model.has_lost_rows:
        n_rows = sum(model.n_rows.values())
        n_published = model.n_published
        return f"{name} of {partition} ({n_rows} of {n_published} rows are there)"
    return f"{name} of {partition} (due {model.deadline:%H:%M} UTC)"


def _describe(error: Exception) -> str:
    if isinstance(error, NightshiftError):
        return str(error)
    # A library's own message may be empty or a bare number: its type tells more.
    return f"{type(error).__name__}: {error}"


def _tell(settings: Settings, at: dt.datetime | None) -> None:
    """Tell people what is broken; a failure is printed and leaves the exit code as it is.

    Args:
        settings: Warehouse, home and channels.
        at: The instant of ``--at``; None is the warehouse's present.
    """
    from nightshift.notices.round import FRESHNESS_CHECK, end_blindness, tell

    try:
        done = tell(settings, at=at)
        results = [*end_blindness(settings, FRESHNESS_CHECK), *done.results]
    except NightshiftError as error:
        sys.stderr.write(f"{error}\n")
        return
    _print_results(results)


def _tell_failed_check(settings: Settings, error: Exception) -> None:
    """Tell people once that the check could not run."""
    from nightshift.notices.round import FRESHNESS_CHECK, tell_blindness

    try:
        results = tell_blindness(settings, FRESHNESS_CHECK, error)
    except NightshiftError as problem:
        sys.stderr.write(f"{problem}\n")
        return
    _print_results(results)


def _print_results(results: Iterable[ChannelResult]) -> None:
    for result in results:
        if result.n_sent:
            typer.echo(f"Told through {result.channel}: {result.n_sent}.")
        if result.problem:
            sys.stderr.write(f"[NS-NOTICE-002] not taken by {result.channel}: {result.problem}\n")


def _print_freshness(freshness: Freshness) -> None:
    typer.echo(f"As of {freshness.at:{INSTANT}} UTC")
    print_table(
        ("model", "partition", "deadline", "published", "rows", "status"),
        map(_model_row, freshness.models),
    )
    print_table(("input", "newest partition", "days behind"), map(_input_row, freshness.inputs))


def _model_row(model: Punctuality) -> tuple[object, ...]:
    # A deadline is a promise in operating time; people compare it with their own clock.
    zone = ZoneInfo(operating_timezone())
    deadline = model.deadline.astimezone(zone)
    published = f"no; newest is {model.newest or 'none'}"
    if model.published_at:
        published = f"{model.published_at:{INSTANT}} UTC"
    counts = [f"{n} {source}" for source, n in model.n_rows.items()]
    status = model.status
    if model.missing_before:
        status += f", {len(model.missing_before)} before it missing"
    return (
        model.model,
        model.partition,
        f"{deadline:{INSTANT} %Z}",
        published,
        ", ".join(counts) or "-",
        status,
    )


def _input_row(age: InputAge) -> tuple[object, ...]:
    days_behind: object = "-"
    if age.days_behind is not None:
        # A day that was published before it was due is no credit.
        days_behind = max(age.days_behind, 0)
    return (age.dataset, age.newest or "none", days_behind)
