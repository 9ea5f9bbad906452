"""``nightshift doctor``: what is missing or broken, and how to repair it."""

from __future__ import annotations

from operator import attrgetter

import typer

from nightshift.cli.console import print_table
from nightshift.settings import default_home


def doctor() -> None:
    """Check packages, disk, permissions, settings, services and DAGs, and name each repair.

    Exits with 1 if something is broken.
    """
    from nightshift_local.diagnosis import diagnose

    findings = list(diagnose(default_home()))
    rows = map(attrgetter("check", "level", "what"), findings)
    print_table(("check", "result", "details"), rows)
    for finding in findings:
        if finding.level != "ok":
            typer.echo(f"to do ({finding.check}): {finding.fix}")
    # A warning is no failure: a script may go on.
    levels = [finding.level for finding in findings]
    if "broken" in levels:
        raise typer.Exit(1)
