"""``nightshift profile``: statistics of the columns of a dataset."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import command_run
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

QUANTILES = (0.05, 0.5, 0.95)
MAX_LEVELS = 3
"""Values of a text column that its line shows, the most frequent first."""
SUMMARY_HEADERS = (
    "column", "rows", "missing", "distinct", "minimum", "5 %", "median", "95 %", "maximum",
    "mean", "std",
)  # fmt: skip


def profile(
    dataset: Annotated[
        str,
        typer.Argument(help="raw/<dataset>, features/<view> or predictions/<model>."),
    ],
    first: Annotated[
        str,
        typer.Option("--from", help="First day, YYYY-MM-DD."),
    ],
    last: Annotated[
        str,
        typer.Option("--to", help="Last day; the first by default."),
    ] = "",
    against_first: Annotated[
        str,
        typer.Option("--against-from", help="First day to compare with."),
    ] = "",
    against_last: Annotated[
        str,
        typer.Option("--against-to", help="Last day to compare with."),
    ] = "",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check the dataset's suite against the profile; exits with 1 when it is broken.",
        ),
    ] = False,
) -> None:
    """Summarise every column of the published days, check their suite, or measure their drift.

    Each day is read once; its profile is stored.
    """
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    days = PartitionRange.of(first, last)
    other_first = against_first or against_last
    other_days = PartitionRange.of(other_first, against_last) if other_first else None
    with connect(settings, "nightshift profile") as conn:
        sketches = _read_profiles(settings, conn, dataset, days)
        if check:
            raise typer.Exit(_print_checks(settings, dataset, sketches, len(days)))
        if other_days is None:
            rows = [_summary(name, sketch) for name, sketch in sketches.items()]
            print_table(SUMMARY_HEADERS, rows)
            return
        references = _read_profiles(settings, conn, dataset, other_days)
    rows = []
    for name, sketch in sketches.items():
        # A column that the earlier days did not have has nothing to be compared with.
        if name in references:
            rows.append(_distances(name, references[name], sketch))
    print_table(("column", "PSI", "Jensen-Shannon", "Wasserstein, in std"), rows)


def _read_profiles(
    settings: Settings,
    conn: Connection,
    dataset: str,
    days: PartitionRange,
) -> dict[str, Sketch]:
    """Return the sketch of each column over the published days; missing profiles are computed."""
    from nightshift.quality.profiles import LoadTable, profile_load, read_profiles
    from nightshift.warehouse.published import published_loads

    run = command_run(f"profile/{dataset}")
    published = sorted(published_loads(conn, dataset, days))
    # Without a published day, the first one raises the error that names it.
    for day in published or [days.first.day]:
        load = LoadTable.published(conn, dataset, day)
        profile_load(settings, conn, load, run)
    n_days = len(published)
    typer.echo(f"{dataset}, {n_days} published day(s) from {days.first} to {days.last}")
    # Sketches merge: the profile of a range is that of its days, without reading rows again.
    return read_profiles(conn, dataset, days)


def _print_checks(
    settings: Settings,
    dataset: str,
    sketches: dict[str, Sketch],
    n_days: int,
) -> int:
    """Print the verdict of each expectation; return 1 when one is broken, else 0."""
    from nightshift.quality.suites.profile_checks import ProfileVerdict, check_profile
    from nightshift.quality.suites.suite import read_suite

    suite = read_suite(settings.expectations_dir, dataset)
    checks = check_profile(sketches, suite.expectations, n_days)
    rows = map(attrgetter("type", "column", "verdict", "observed"), checks)
    print_table(("expectation", "column", "verdict", "outside"), rows)
    verdicts = [check.verdict for check in checks]
    # A sketch bounds its counts; with the limit between the bounds only the rows can tell.
    n_settled = len(verdicts) - verdicts.count(ProfileVerdict.UNKNOWN)
    typer.echo(
        f"{n_settled} of {len(verdicts)} expectations are settled by the profile;"
        " the gate has settled all of them on each day"
    )
    return int(ProfileVerdict.BROKEN in verdicts)


def _summary(name: str, sketch: Sketch) -> tuple[str, ...]:
    """Return the line of one column; a text column shows its most frequent values."""
    from nightshift.quality.sketches.text_sketch import TextSketch

    missing = ""
    if sketch.n_rows:
        missing = f"{sketch.n_missing / sketch.n_rows:.2%}"
    cells = [
        name,
        f"{sketch.n_rows:,}",
        missing,
        f"{sketch.n_distinct:,}",
    ]
    if isinstance(sketch, TextSketch):
        levels = sketch.levels.most_common(MAX_LEVELS)
        shares = [f"{level} {n / sketch.n_known:.0%}" for level, n in levels]
        cells.append(", ".join(shares))
    elif sketch.minimum is not None:
        quantiles = map(sketch.quantile, QUANTILES)
        statistics = [
            sketch.minimum,
            *quantiles,
            sketch.maximum,
            sketch.mean,
            sketch.std,
        ]
        cells += map(_number, statistics)
    # A table of rich has the same number of cells in each row.
    cells += [""] * (len(SUMMARY_HEADERS) - len(cells))
    return tuple(cells)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _distances(name: str, reference: Sketch, current: Sketch) -> tuple[str, ...]:
    """Return the line of one column; a distance that is not defined shows its reason."""
    from nightshift.quality.drift_statistics import jensen_shannon, stability_index, wasserstein
    from nightshift.quality.sketches.number_sketch import NumberSketch

    try:
        index = f"{stability_index(reference, current):.4f}"
    except TypeError as error:
        return (name, str(error), "", "")
    try:
        divergence = f"{jensen_shannon(reference, current):.4f}"
        distance = ""
        if isinstance(reference, NumberSketch) and isinstance(current, NumberSketch):
            distance = f"{wasserstein(reference, current):.4f}"
    except ValueError as error:
        return (name, index, str(error), "")
    return (name, index, divergence, distance)
