"""Write docs/performance.md and its figure from the kept results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = PROJECT_ROOT / "benchmarks" / "results"
PAGE = PROJECT_ROOT / "docs" / "performance.md"
FIGURE = PROJECT_ROOT / "docs" / "figures" / "performance.svg"
TITLES = {
    "scoring": "From features in the warehouse to published scores",
    "exact_reasons": "Exact reasons",
    "write_path": "What the write path costs",
    "training": "Training from a snapshot",
    "ingest": "Files in the lake to the raw layer",
    "profiles": "Checks and drift from one scan",
    "evidence_gate": "One decision of the evidence gate",
    "scaling": "How ingest, scoring and profiles grow",
    "empty_night": "A night on which nothing happens",
    "dag_parsing": "Reading the DAG files of 50 models",
}
OURS, PEER = "#1b6ca8", "#b8bec4"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results by benchmark, in the order of the page."""
    results = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }
    return {name: results[name] for name in TITLES if name in results}


def write_page() -> None:
    """Write page and figure."""
    results = read_results(RESULTS)
    lines = [
        "# Performance",
        "",
        (
            "Written by `make bench` from `benchmarks/results/`. Sides are run in the same call, in"
            " turns, and medians are compared; a ratio"
        ),
        (
            "says more than seconds, since machines differ. `make bench-quick` runs all of it in"
            " a few minutes with small sizes."
        ),
        "",
        "![What was measured next to each other](figures/performance.svg)",
    ]
    for name, result in results.items():
        lines += [
            "",
            f"## {TITLES[name]}",
            "",
            f"{result['sizes']}. {result['machine']}, commit `{result['commit']}`.",
            "",
        ]
        against = result.get("against", {"commit": "", "ratios": {}})
        ratios, line = (f" x of `{against['commit']}` |", "---|") if against["commit"] else ("", "")
        lines += [
            "```sh",
            result["command"],
            "```",
            "",
            f"| figure | measured | limit | |{ratios}",
            f"|---|---|---|---|{line}",
        ]
        lines += [
            f"{_limited(what, limited)}{_ratio(against, what)}"
            for what, limited in result["limited"].items()
        ]
        lines += [
            f"| {what} | {number:,.4g} | | |{_ratio(against, what)}"
            for what, number in result["figures"].items()
        ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw({name: result for name, result in results.items() if result["bars"]})


def _ratio(against: dict[str, Any], what: str) -> str:
    """Return the cell of another commit; none where no other commit was measured."""
    if not against["commit"]:
        return ""
    return f" {against['ratios'][what]:.2f} |" if what in against["ratios"] else " |"


def _limited(what: str, limited: dict[str, Any]) -> str:
    is_met = (
        limited["value"] >= limited["limit"]
        if limited["kind"] == "at least"
        else limited["value"] <= limited["limit"]
    )
    return (
        f"| **{what}** | {limited['value']:,.4g} {limited['unit']}"
        f" | {limited['kind']} {limited['limit']:g} | {'met' if is_met else 'missed'} |"
    )


def _draw(results: dict[str, dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    if not results:
        return
    heights = [len(result["bars"]) for result in results.values()]
    figure, axes = plt.subplots(
        len(results),
        1,
        figsize=(8, 0.55 * sum(heights) + 0.75 * len(heights)),
        height_ratios=heights,
        squeeze=False,
    )
    for ax, (name, result) in zip(axes[:, 0], results.items(), strict=True):
        _draw_one(ax, TITLES[name], result)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "nightshift"
    figure.savefig(FIGURE, metadata={"Date": None})


def _draw_one(ax: Axes, title: str, result: dict[str, Any]) -> None:
    names, values = list(result["bars"]), list(result["bars"].values())
    ours = [name.startswith(("nightshift", "whole protocol")) for name in names]
    ax.barh(names[::-1], values[::-1], color=[OURS if is_ours else PEER for is_ours in ours[::-1]])
    for position, value in enumerate(values[::-1]):
        ax.text(value, position, f" {value:,.0f}", va="center", fontsize=8)
    ax.set_title(f"{title}: {result['unit']}", fontsize=10, loc="left")
    ax.set_xlim(0, max(values) * 1.18)
    ax.tick_params(labelsize=8)
    ax.xaxis.set_visible(False)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
