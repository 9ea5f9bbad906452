"""``nightshift doctor``: what is missing or broken, and how to repair it."""

from __future__ import annotations

import typer

from nightshift.cli.console import print_table
from nightshift.settings import default_home


def doctor() -> None:
    """Check packages, disk, permissions, settings, services and DAGs, and name each repair.

    Exits with 1 if something is broken.
    """
    from nightshift_local.diagnosis import diagnose

    findings = list(diagnose(default_home()))
    rows = [(finding.check, finding.level, finding.what) for finding in findings]
    print_table(("check", "result", "details"), rows)
    for finding in findings:
        if finding.level != "ok":
            typer.echo(f"to do ({finding.check}): {finding.fix}")
    if any(finding.level == "broken" for finding in findings):
        raise typer.Exit(1)
