"""``nightshift profile``: what the columns of a dataset are like, from the kept profiles of its partitions."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_SHARES = (0.05, 0.5, 0.95)
_LEVELS_SHOWN = 3


def profile(
    dataset: Annotated[
        str, typer.Argument(help="raw/<dataset>, features/<view> or predictions/<model>.")
    ],
    first: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD.")],
    last: Annotated[str, typer.Option("--to", help="Last day; the first by default.")] = "",
    against_first: Annotated[
        str, typer.Option("--against-from", help="First day to compare with.")
    ] = "",
    against_last: Annotated[
        str, typer.Option("--against-to", help="Last day to compare with.")
    ] = "",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Hold the dataset's suite against the profile; ends with 1 when it is broken.",
        ),
    ] = False,
) -> None:
    """Summarise every column of the published days, hold their suite against it, or say how far they are from other days.

    Each day is read once and then kept.
    """
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "nightshift profile") as conn:
        days = PartitionRange.of(first, last or first)
        found = _profiles(settings, conn, dataset, days)
        if check:
            raise typer.Exit(_show_checks(settings, dataset, found, len(days)))
        if not against_first:
            headers = (
                "column",
                "rows",
                "missing",
                "distinct",
                "minimum",
                "5 %",
                "median",
                "95 %",
                "maximum",
                "mean",
                "std",
            )
            print_table(headers, [_summary(name, sketch) for name, sketch in found.items()])
            return
        other = _profiles(
            settings, conn, dataset, PartitionRange.of(against_first, against_last or against_first)
        )
    print_table(
        ("column", "PSI", "Jensen-Shannon", "Wasserstein, in std"),
        [_distances(name, other[name], sketch) for name, sketch in found.items() if name in other],
    )


def _show_checks(settings: Settings, dataset: str, found: dict[str, Sketch], n_days: int) -> int:
    """Print what the profile says of each expectation, and return 1 when one is broken."""
    from nightshift.quality.suites.profile_checks import Verdict, check_profile
    from nightshift.quality.suites.suite import read_suite

    suite = read_suite(settings.expectations_dir, dataset)
    checks = check_profile(found, suite.expectations, n_days)
    print_table(
        ("expectation", "column", "verdict", "outside"),
        [(one.type, one.column, one.verdict, one.observed) for one in checks],
    )
    n_unknown = sum(one.verdict is Verdict.UNKNOWN for one in checks)
    say(
        f"{len(checks) - n_unknown} of {len(checks)} expectations are settled by the profile; the gate has settled all of them on each day"
    )
    return int(any(one.verdict is Verdict.BROKEN for one in checks))


def _profiles(
    settings: Settings, conn: Connection, dataset: str, days: PartitionRange
) -> dict[str, Sketch]:
    from nightshift.quality.profiles import LoadTable, profile_load, read_profiles
    from nightshift.warehouse.published import published_loads

    run = RunContext(f"profile/{dataset}", actor=f"cli:{getpass.getuser()}")
    published = sorted(published_loads(conn, dataset, days))
    for day in published or [days.first.day]:
        profile_load(settings, conn, LoadTable.published(conn, dataset, day), run)
    say(f"{dataset}, {len(published)} published day(s) from {days.first} to {days.last}")
    return read_profiles(conn, dataset, days)


def _summary(name: str, sketch: Sketch) -> Sequence[str]:
    from nightshift.quality.sketches.sketch import TextSketch

    missing = f"{sketch.n_missing / sketch.n_rows:.2%}" if sketch.n_rows else ""
    head = (name, f"{sketch.n_rows:,}", missing, f"{sketch.n_distinct:,}")
    if isinstance(sketch, TextSketch):
        shown = ", ".join(
            f"{text} {n / sketch.n_known:.0%}"
            for text, n in sketch.levels.most_common(_LEVELS_SHOWN)
        )
        return (*head, shown, *("" for _ in range(6)))
    if sketch.minimum is None:
        return (*head, *("" for _ in range(7)))
    places = (
        sketch.minimum,
        *(sketch.quantile(share) for share in _SHARES),
        sketch.maximum,
        sketch.mean,
        sketch.std,
    )
    return (*head, *("" if place is None else f"{place:.6g}" for place in places))


def _distances(name: str, reference: Sketch, current: Sketch) -> Sequence[str]:
    from nightshift.quality.drift_statistics import jensen_shannon, stability_index, wasserstein
    from nightshift.quality.sketches.sketch import NumberSketch

    try:
        index = f"{stability_index(reference, current):.4f}"
    except TypeError as error:
        return (name, str(error), "", "")
    try:
        divergence = f"{jensen_shannon(reference, current):.4f}"
        is_number = isinstance(reference, NumberSketch) and isinstance(current, NumberSketch)
        moved = f"{wasserstein(reference, current):.4f}" if is_number else ""  # type: ignore[arg-type]  # both are numbers
    except ValueError as error:
        return (name, index, str(error), "")
    return (name, index, divergence, moved)
