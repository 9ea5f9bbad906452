"""``nightshift compare``: versions of a model on the same rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.arguments import AsJson, Model
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.studies.compared_numbers import ComparedNumber
    from nightshift.studies.version_comparison import VersionComparison

HEADERS = (
    "slice",
    "rows",
    "days",
    "metric",
    "version",
    "value",
    "its interval",
    "difference",
    "its interval",
)
ABOUT = (
    "{model}: {n_rows:,} labelled rows of {window}, as known at {as_of:%Y-%m-%d %H:%M} UTC."
    " Each bound of an interval: {confidence:.1%}."
)
RANGE = ".."


def compare(
    model: Model,
    versions: Annotated[
        list[int], typer.Argument(help="Versions; each is compared with the first.")
    ],
    days: Annotated[
        str,
        typer.Option(
            help="Number of the newest mature days that no version has seen, or <first>..<last>:"
            " feature partitions, of which seen ones are marked."
        ),
    ] = "28",
    as_json: AsJson = False,
) -> None:
    """Compare versions of a model: metrics by slice on the same rows; nothing is written.

    Intervals draw days, not rows. A difference is the version's value minus the first one's.
    """
    from nightshift.contracts.model_spec import load_spec
    from nightshift.studies.version_comparison import compare_versions

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    # A range names its days; a number takes the newest ones that no version has seen.
    window, n_days = read_days(days)
    comparison = compare_versions(settings, spec, versions, window, n_days)
    if as_json:
        typer.echo(json.dumps(_document(comparison), indent=1))
        return
    typer.echo(ABOUT.format(**vars(comparison)))
    # A version looks too good on days that it was fitted on: said before its numbers.
    for version in comparison.versions:
        seen = ""
        if version.n_seen_days:
            seen = f"; it was fitted on {version.n_seen_days} of these days: too good there"
        typer.echo(
            f"version {version.version}: trained by {version.trained_on}, fitted until"
            f" {version.fit_end}{seen}"
        )
    print_table(HEADERS, map(_row, comparison.numbers))


def read_days(text: str) -> tuple[PartitionRange | None, int]:
    """Return the range, or None and a number of days.

    Raises:
        BadParameter: The text is neither.
        PartitionError: A day of the range is none.
    """
    if RANGE in text:
        first, _, last = text.partition(RANGE)
        return PartitionRange.of(first, last), 0
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number of days nor <first>..<last>")
    return None, int(text)


def _document(comparison: VersionComparison) -> dict[str, Any]:
    document = asdict(comparison)
    # Ranges, instants and days have no form in JSON.
    window = comparison.window
    document["window"] = [
        window.first.key,
        window.last.key,
    ]
    document["as_of"] = comparison.as_of.isoformat()
    for version in document["versions"]:
        version["trained_on"] = version["trained_on"].isoformat()
        version["fit_end"] = version["fit_end"].isoformat()
    return document


def _row(number: ComparedNumber) -> tuple[str, ...]:
    part = "all"
    if number.slice_column:
        part = f"{number.slice_column} {number.slice_level}"
    difference = ""
    # The first version has nothing to differ from.
    if number.difference is not None:
        difference = f"{number.difference:+.4f}"
    return (
        part,
        f"{number.n_rows:,}",
        str(number.n_days),
        number.metric,
        f"v{number.version}",
        _shown(number.value),
        _bounds(number.interval),
        difference,
        _bounds(number.difference_interval),
    )


def _shown(value: float | None) -> str:
    # Such as an AUC of rows with one outcome.
    if value is None:
        return "undefined"
    return f"{value:.4f}"


def _bounds(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{low:.4f} .. {high:.4f}"
