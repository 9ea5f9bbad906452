from __future__ import annotations

from dataclasses import replace

from nightshift.quality.suites.check_results import CheckResult
from nightshift.quality.suites.gate_page import render_page

MET = CheckResult("not_null(a)", "", "critical", True, False, "0 of 3")


def test_page_puts_failures_first_and_counts_when_one_fails() -> None:
    failed = replace(MET, expectation="unique(b)", has_passed=False, observed="2 of 3")
    page = render_page("raw/weather", False, [MET, failed])
    assert "failed: 1 of 2 expectations met" in page
    assert page.index("unique(b)") < page.index("not_null(a)")


def test_page_escapes_texts_when_they_hold_markup() -> None:
    page = render_page("<b>", True, [replace(MET, expectation="<img onerror=x>")])
    assert "<img" not in page
    assert "&lt;img onerror=x&gt;" in page
    assert "<title>&lt;b&gt;" in page


def test_page_loads_nothing_and_forbids_scripts_when_opened() -> None:
    page = render_page("raw/weather", True, [MET])
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
