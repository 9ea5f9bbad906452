"""The generated pages say what the marked tests last measured, and nothing else."""

from __future__ import annotations

import re

from tests.evidence.pages import PAGES, read_latest, read_yaml, reliability_page, score_page

_PASSED = {
    "tests/a.py::test_a[1]": {
        "promise": ["R1"],
        "mlts": [],
        "outcome": "passed",
        "figures": {"kills": 40},
        "day": "2026-01-02",
    },
    "tests/a.py::test_a[2]": {
        "promise": ["R1"],
        "mlts": [],
        "outcome": "failed",
        "figures": {"kills": 60},
        "day": "2026-01-03",
    },
    "tests/b.py::test_b": {
        "promise": [],
        "mlts": ["x-1"],
        "outcome": "passed",
        "figures": {},
        "day": "2026-01-02",
    },
}


def test_cases_of_a_test_are_counted_and_figures_are_ranges() -> None:
    page = reliability_page({"R1": "One.", "R2": "Two."}, _PASSED)
    assert "| [R1](#r1) | One. | 2 | 1 | 2026-01-03 |" in page
    assert "| [a](../tests/a.py) | 1 of 2 | kills: 40 to 60 |" in page
    assert "| [R2](#r2) | Two. | 0 | 0 | never |" in page


def test_score_is_the_least_section() -> None:
    rubric = {
        "Data": {"x-1": {"check": "Good."}},
        "Model": {"y-1": {"check": "Tried.", "by_hand": "docs/x.md"}, "y-2": {"check": "No."}},
    }
    page = score_page(rubric, _PASSED)
    assert "**Score: 0.5** (Data 1, Model 0.5; seven checks each)" in page
    assert "| y-2 | No. | 0 | not yet |" in page


def test_modules_with_many_tests_are_named_once() -> None:
    many = {
        f"tests/c.py::test_{name}": _PASSED["tests/b.py::test_b"] | {"mlts": ["x-1"]}
        for name in "abcd"
    }
    page = score_page({"Data": {"x-1": {"check": "Good."}}}, _PASSED | many)
    assert "| x-1 | Good. | 1 | [b](../tests/b.py); 4 tests of [c.py](../tests/c.py) |" in page


def test_pages_that_a_person_wrote_exist() -> None:
    rubric = read_yaml("ml_test_score.yaml")
    by_hand = [
        check["by_hand"]
        for checks in rubric.values()
        for check in checks.values()
        if "by_hand" in check
    ]
    assert by_hand
    for text in by_hand:
        link = re.search(r"\]\(([^)#]+)#([^)]+)\)", text)
        assert link, f"{text} links to no heading"
        page, heading = link.groups()
        assert f"## {heading}" in (PAGES["mlts"].parent / page).read_text().splitlines()


def test_pages_in_docs_are_current_and_every_mark_is_known() -> None:
    """Renew them with ``make evidence``, or ``python -m tests.evidence.pages``."""
    promises, rubric, entries = (
        read_yaml("promises.yaml"),
        read_yaml("ml_test_score.yaml"),
        read_latest(),
    )
    assert PAGES["promise"].read_text() == reliability_page(promises, entries)
    assert PAGES["mlts"].read_text() == score_page(rubric, entries)
    assert {mark for entry in entries.values() for mark in entry["promise"]} <= promises.keys()
    assert {mark for entry in entries.values() for mark in entry["mlts"]} <= {
        check for checks in rubric.values() for check in checks
    }
