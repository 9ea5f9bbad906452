"""Write a gate's verdict as one HTML page that loads nothing from elsewhere and runs no script."""

from __future__ import annotations

import json
import logging
from html import escape
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.quality.suites.check_results import CheckResult
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; color: #1d2329; }}
h1 {{ font-size: 1.3rem; margin-bottom: .3rem; }}
p.passed {{ color: #17663a; }} p.failed {{ color: #a4161a; font-weight: 600; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem;
  border-bottom: 1px solid #dde1e5; overflow-wrap: anywhere; }}
th {{ border-bottom: 2px solid #8a949e; }}
tr.failed td {{ background: #fdecec; }} tr.warned td {{ background: #fff6dd; }}
code {{ font-size: .9em; }}
</style></head><body>
"""


def render_page(title: str, passed: bool, checks: Iterable[CheckResult]) -> str:
    """Return the page; every text is escaped, failures come first.

    Args:
        title: Dataset, partitions and load.
        passed: The verdict.
        checks: One per expectation.
    """
    # Failures first: "not passed" sorts before "passed".
    ordered = sorted(checks, key=attrgetter("has_passed", "expectation", "arguments"))
    n_met = sum(check.has_passed for check in ordered)
    verdict = "passed" if passed else "failed"
    summary = f"{verdict}: {n_met} of {len(ordered)} expectations met"
    parts = [
        _HEAD.format(title=escape(title)),
        f'<h1>{escape(title)}</h1>\n<p class="{verdict}">{summary}</p>\n',
        "<table><thead><tr><th>result<th>expectation<th>arguments<th>observed</tr></thead>\n",
        "<tbody>\n",
        "\n".join(map(_row, ordered)),
        "\n</tbody></table></body></html>\n",
    ]
    return "".join(parts)


def _row(check: CheckResult) -> str:
    is_critical = check.severity == "critical"
    if check.has_passed:
        word = "met"
        style = ""
    else:
        word = "not met" if is_critical else check.severity
        # A crash blocks at every severity.
        style = "failed" if is_critical or check.has_crashed else "warned"
    cells = (word, check.expectation, check.arguments, check.observed)
    joined = "<td>".join(map(escape, cells))
    return f'<tr class="{style}"><td>{joined}</tr>'


def store_page(settings: Settings, key: str, page: str, evidence: dict[str, Any]) -> str | None:
    """Store page and JSON; return the page's key, or None if the bucket fails."""
    from nightshift.lake.object_store import ObjectStore

    document = json.dumps(evidence, indent=2, sort_keys=True).encode()
    try:
        store = ObjectStore.open(settings)
        store.put(f"{key}.json", document, "application/json")
        store.put(f"{key}.html", page.encode(), "text/html; charset=utf-8")
    except Exception as error:  # noqa: BLE001  (the verdict stands in the log and in the ledger)
        reason = str(error).splitlines()[0]
        logger.warning("The data docs %s.html could not be stored: %s", key, reason)
        return None
    return f"{key}.html"
