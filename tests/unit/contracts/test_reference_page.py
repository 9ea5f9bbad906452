from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from nightshift.contracts.reference_page import SCHEMAS, json_schema, render
from nightshift.settings import PROJECT_ROOT


def test_page_in_docs_is_current():
    """Renew it with ``make docs``."""
    assert (PROJECT_ROOT / "docs" / "specs.md").read_text(encoding="utf-8") == render()


def test_every_key_has_a_meaning():
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []


def test_limits_defaults_and_choices_are_shown():
    page = render()
    assert "| `gap_days` | whole number, ≥ 0, ≤ 36525 | `1` |" in page
    assert "| `schedule` | `nightly` or `weekly` or `never` | required |" in page
    assert "| `positive_threshold` | number or null | `null` |" in page
    assert "### `promotion.slices`" in page


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_in_docs_is_current_and_describes_every_key(name: str):
    schema = json_schema(SCHEMAS[name])
    path = PROJECT_ROOT / "docs" / "schemas" / f"{name}.json"
    assert json.loads(path.read_text(encoding="utf-8")) == schema
    for part in [schema, *schema["$defs"].values()]:
        keys = part.get("properties", {})
        assert [key for key, value in keys.items() if not value["description"]] == []


@pytest.mark.parametrize(("name", "folder"), [("model", "models"), ("dataset", "datasets")])
def test_schema_takes_our_documents_and_refuses_an_unknown_key(name: str, folder: str):
    validator = Draft202012Validator(json_schema(SCHEMAS[name]))
    paths = sorted((PROJECT_ROOT / "dags" / folder).glob("*.yaml"))
    assert len(paths) > 1
    for path in paths:
        # As an editor reads it: dates are strings.
        document = json.loads(json.dumps(YAML(typ="safe", pure=True).load(path), default=str))
        assert list(validator.iter_errors(document)) == [], path
        assert list(validator.iter_errors({**document, "nmae": "x"})) != []
        first_line = path.read_text(encoding="utf-8").splitlines()[0]
        assert first_line == f"# yaml-language-server: $schema=../../docs/schemas/{name}.json"
