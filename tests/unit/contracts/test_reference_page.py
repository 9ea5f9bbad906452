from __future__ import annotations

from nightshift.contracts.reference_page import render
from nightshift.settings import PROJECT_ROOT


def test_page_in_docs_is_current():
    """Renew it with ``python -m nightshift.contracts.reference_page > docs/specs.md``."""
    assert (PROJECT_ROOT / "docs" / "specs.md").read_text(encoding="utf-8") == render()


def test_every_key_has_a_meaning():
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []


def test_limits_defaults_and_choices_are_shown():
    page = render()
    assert "| `gap_days` | whole number, ≥ 0 | `1` |" in page
    assert "| `schedule` | `nightly` or `weekly` or `never` | required |" in page
    assert "| `positive_threshold` | number or null | `null` |" in page
    assert "### `promotion.slices`" in page
