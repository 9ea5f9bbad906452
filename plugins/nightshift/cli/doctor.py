"""``nightshift doctor``: what is missing or broken, and how to repair it."""

from __future__ import annotations

import typer

from nightshift.cli.console import print_table, say
from nightshift.settings import default_home


def doctor() -> None:
    """Check packages (imports really tried), disk, permissions, settings, services and DAGs. Exits with 1 if something is broken."""
    from nightshift_local.diagnosis import diagnose

    findings = list(diagnose(default_home()))
    print_table(
        ("check", "result", "found"),
        ((finding.check, finding.level, finding.what) for finding in findings),
    )
    repairs = [finding for finding in findings if finding.level != "ok"]
    for finding in repairs:
        say(f"to do ({finding.check}): {finding.fix}")
    if any(finding.level == "broken" for finding in repairs):
        raise typer.Exit(1)
