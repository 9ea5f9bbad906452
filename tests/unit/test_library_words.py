"""The library serves any domain: no code, comment or docstring of it speaks of the example's."""

from __future__ import annotations

import re

from nightshift.settings import PROJECT_ROOT

LIBRARY = PROJECT_ROOT / "plugins" / "nightshift"
APPLIED = {"0011_maturity.sql"}
"""Migrations that warehouses have already; they are not edited any more."""
WORDS = re.compile("flight|airline|airport|departure|carrier|aircraft", re.IGNORECASE)


def test_the_library_has_no_word_about_flights():
    found = []
    sources = [*LIBRARY.rglob("*.py"), *LIBRARY.rglob("*.sql")]
    sources = [path for path in sources if path.name not in APPLIED]
    for path in sorted(sources):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if WORDS.search(line):
                found.append(f"{path.relative_to(PROJECT_ROOT)}:{number}: {line.strip()}")
    assert len(sources) > 100
    assert not found, "\n".join(found)
