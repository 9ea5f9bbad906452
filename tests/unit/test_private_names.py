"""Tests use what the library shows; the few private names that they replace stand here.

A fault that no public name can cause is put in by a private one. Each has its reason, and the list
is exact: a name that is no longer used goes from it, and a new one needs a reason of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nightshift.settings import PROJECT_ROOT

ROOTS = {"nightshift", "nightshift_local", "examples"}
PUBLIC_ALL_THE_SAME = {"_replace", "_exit"}
"""Of a named tuple, and of ``os``."""
FAULTS = {
    ("tests/unit/quality/test_csv_dialect.py", "_is_plain"): (
        "a line that the check of the dialect overlooks, for the count of rows that comes after it"
    ),
    ("tests/integration/telemetry/openlineage_schema.py", "_get_schema"): (
        "OpenLineage's client names the schema of a facet in no other way"
    ),
}


def is_private(name: str) -> bool:
    is_private_name = name.startswith("_") and not name.startswith("__")
    return is_private_name and name not in PUBLIC_ALL_THE_SAME


def private_names(text: str) -> Iterator[str]:
    """Yield each private name that is imported from the library, or read or replaced on anything.

    What an object is cannot be read off a text, so all but a test's own ``self`` counts.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ROOTS:
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if ast.unparse(node.value) not in {"self", "cls"}:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            # The first string names it: alone with its module, or after the object that has it.
            strings = [part.value for part in node.args if isinstance(part, ast.Constant)]
            name = str(next(iter(strings), "")).rpartition(".")[2]
            if is_private(name):
                yield name


def test_no_test_uses_a_private_name_of_the_library_but_the_listed_faults():
    used = set()
    for path in sorted((PROJECT_ROOT / "tests").rglob("*.py")):
        file = str(path.relative_to(PROJECT_ROOT))
        used |= {(file, name) for name in private_names(path.read_text(encoding="utf-8"))}
    assert used == set(FAULTS)


def test_each_way_to_use_a_private_name_is_found():
    text = """
from nightshift.lake import transfer
from nightshift.lake.drops import _key, Drop
import nightshift.settings
transfer._size
Drop("a")._digest
nightshift.settings._read
monkeypatch.setattr(transfer, "_chunk", 1)
monkeypatch.setattr("nightshift.lake.transfer._body", 1)
row._replace(a=1)
self._own
transfer.__name__
"""
    expected = {"_key", "_size", "_digest", "_read", "_chunk", "_body"}
    assert set(private_names(text)) == expected
