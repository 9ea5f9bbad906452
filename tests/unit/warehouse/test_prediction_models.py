"""The dbt models of predictions are what the specs say, also after a spec came, changed or went."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, select_autoescape

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.dbt.prediction_models import (
    FOLDER,
    model_files,
    write_prediction_models,
)
from nightshift.warehouse.relations.view_contracts import prediction_views
from nightshift.warehouse.relations.view_macros import (
    MACROS,
    RELATIONS,
    VIEW_MACROS,
    spec_words,
)

SPECS = PROJECT_ROOT / "dags" / "models"
DBT = PROJECT_ROOT / "dbt_project"
MODEL = "flight_delayed"


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec(SPECS, MODEL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project's specs and dbt models."""
    shutil.copytree(SPECS, tmp_path / "specs")
    shutil.copytree(DBT / "models", tmp_path / "dbt" / "models")
    return tmp_path


def renew(project: Path) -> list[str]:
    changed = write_prediction_models(project / "specs", project / "dbt")
    return [path.name for path in changed]


def properties(spec: ModelSpec, dbt: Path = DBT) -> dict:
    return yaml.safe_load(model_files(spec, dbt)[f"_{spec.name}.yml"])


def test_the_files_of_the_project_are_those_of_its_specs(project):
    """If not: `nightshift dbt parse`, or `make docs`, renews them."""
    assert renew(project) == []


def test_a_spec_gets_its_models_when_it_comes_and_loses_them_when_it_goes(project):
    text = (SPECS / "flight_delayed.yaml").read_text(encoding="utf-8")
    new = project / "specs" / "flight_late.yaml"
    new.write_text(text.replace("name: flight_delayed", "name: flight_late"), encoding="utf-8")
    folder = project / "dbt" / FOLDER / "flight_late"

    names = [f"flight_late_{suffix}.sql" for suffix in prediction_views(load_spec(SPECS, MODEL))]
    assert renew(project) == [*names, "_flight_late.yml"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "_flight_late.yml"])
    assert renew(project) == []

    new.unlink()
    assert renew(project) == ["flight_late"]
    assert not folder.exists()


def test_a_folder_of_somebody_else_is_never_deleted(project):
    folder = project / "dbt" / FOLDER / "by_hand"
    folder.mkdir()
    (folder / "by_hand.sql").write_text("select 1 as n\n")

    assert renew(project) == []
    assert (folder / "by_hand.sql").is_file()


def test_a_spec_keeps_its_models_while_its_file_is_wrong(project):
    (project / "specs" / "flight_delayed.yaml").write_text("name: flight_delayed\n")

    assert renew(project) == []
    assert (project / "dbt" / FOLDER / "flight_delayed").is_dir()


def test_outcomes_come_from_the_label_model_or_from_a_source_if_no_model_makes_it(spec):
    sql = model_files(spec, DBT)["flight_delayed_outcomes.sql"]
    assert "ref('fct_flight_labels')" in sql
    names = [source["name"] for source in properties(spec)["sources"]]
    assert names == ["predictions"]

    label = spec.label.model_copy(update={"relation": "delivered_labels"})
    other = spec.model_copy(update={"label": label})
    sql = model_files(other, DBT)["flight_delayed_outcomes.sql"]
    assert "source('flight_delayed_labels', 'delivered_labels')" in sql
    source = properties(other)["sources"][1]
    assert (source["name"], source["schema"]) == ("flight_delayed_labels", "marts")
    assert properties(other)["exposures"][0]["depends_on"] == ["ref('feat_flight')"]


def test_words_of_a_spec_are_never_run_as_jinja(spec):
    other = spec.model_copy(update={"description": "Is {{ this }} late?"})
    document = properties(other)
    assert document["exposures"][0]["description"] == "{% raw %}Is {{ this }} late?{% endraw %}"
    assert document["models"][0]["description"].startswith("{% raw %}Is {{ this }} late? ")


@pytest.mark.parametrize("model", ["flight_delayed", "arrival_delay_minutes"])
def test_each_column_of_a_view_is_described_in_its_order(model):
    spec = load_spec(SPECS, model)
    selects = rendered(spec)
    models = {described["name"]: described for described in properties(spec)["models"]}

    for suffix, view in prediction_views(spec).items():
        assert selected_columns(selects[suffix]) == list(view.columns), suffix
        described = models[f"{model}_{suffix.removesuffix('_v1')}"]
        columns = described["columns"]
        if view.deprecated_by:
            (older,) = [part for part in described["versions"] if part["v"] == 1]
            assert older["deprecation_date"]
            columns = older["columns"][1:]
        assert [column["name"] for column in columns] == list(view.columns)
        assert all(column["description"] for column in columns)


def rendered(spec: ModelSpec) -> dict[str, str]:
    """Return the SQL of each view of a model, with short names for its relations."""
    environment = Environment(autoescape=select_autoescape([], default_for_string=False))
    text = "\n".join((DBT / path).read_text(encoding="utf-8") for path in MACROS)
    macros = environment.from_string(text).module
    relations = {name: name for name in (*RELATIONS, "predictions", "features", "label_function")}
    argument = {**spec_words(spec), **relations}
    selects = {
        suffix: getattr(macros, macro)(spec=argument) for suffix, macro in VIEW_MACROS.items()
    }
    rows = {"predictions": "t", "dataset": spec.predictions_dataset, "key": spec.entity.key}
    selects["current_v1"] = macros.current_predictions_v1(published="p", **rows)
    selects["history_v1"] = macros.prediction_history_v1(loads="l", **rows)
    selects["outcomes_v1"] = macros.prediction_outcomes_v1(
        published="p", label_function="f", maturity_days=1, **rows
    )
    return selects


def selected_columns(select: str) -> list[str]:
    """Return the names of the columns of a statement's last select."""
    body = re.split(r"^select\n", select, flags=re.MULTILINE)[-1].split("\nfrom ")[0]
    # Only a comma at the depth of the select itself ends a column.
    depth, parts = 0, [""]
    # Neither does one within words.
    without_words = re.sub(r"'[^']*'", "''", re.sub(r"--.*", "", body))
    for character in without_words:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [re.findall(r"(\w+)\"?\s*$", part)[0] for part in parts]


def test_the_contract_of_every_view_is_enforced_but_for_labels_of_an_unknown_type(spec):
    for described in properties(spec)["models"]:
        for version in described["versions"]:
            name = (described["name"], version["v"])
            contract = version.get("config", {}).get("contract")
            assert (contract is None) == (name != ("flight_delayed_outcomes", 1)), name


CONTRACTS = Path(__file__).parent / "analytics_contracts.json"
"""The views as they were released: columns with their types, by view and version."""


def contracts() -> dict:
    """Return the contracts of the project's views, as the file has them."""
    released = {}
    for model in ("arrival_delay_minutes", "flight_delayed"):
        spec = load_spec(SPECS, model)
        types = dict.fromkeys(spec.analytics.attributes, "text")
        for suffix, view in prediction_views(spec, types).items():
            columns = {name: column.data_type for name, column in view.columns.items()}
            released[f"{model}_{suffix}"] = {"version": view.version, "columns": columns}
    for view in yaml.safe_load((DBT / "models/analytics/_analytics.yml").read_text())["models"]:
        columns = {column["name"]: column["data_type"] for column in view["columns"]}
        released[view["name"]] = {"version": f"{view['latest_version']}.0.0", "columns": columns}
    return released


def broken_contracts(before: dict, after: dict) -> list[str]:
    """Return what a change breaks: columns that readers use, without a new version and a way."""
    problems = []
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            problems.append(f"{name} is gone: a view goes only after its date")
            continue
        old_major, new_major = (int(part["version"].split(".")[0]) for part in (old, new))
        kept = [column for column in new["columns"] if column in old["columns"]]
        is_compatible = kept == list(old["columns"]) and all(
            new["columns"][column] == old["columns"][column] for column in kept
        )
        if not is_compatible and new_major <= old_major:
            problems.append(f"{name} breaks version {old['version']}: raise its first number")
        deprecated = f"{name}_v{old_major}"
        if new_major > old_major and after.get(deprecated, {}).get("columns") != old["columns"]:
            problems.append(f"{deprecated} must keep the columns of version {old['version']}")
        if new["columns"] != old["columns"] and new["version"] == old["version"]:
            problems.append(f"{name} changes its columns: raise its second number")
    return problems


def test_no_view_breaks_its_contract():
    """After a change that is meant: renew the file with the command that the assertion shows."""
    released = json.loads(CONTRACTS.read_text(encoding="utf-8"))
    assert broken_contracts(released, contracts()) == []
    renew = "python -m tests.unit.warehouse.test_prediction_models"
    assert released == contracts(), f"a compatible change: {renew}"


def test_a_breaking_change_needs_a_version_and_a_view_of_before():
    before = {"m_current": {"version": "1.0.0", "columns": {"a": "text", "b": "date"}}}

    def after(version: str, columns: dict[str, str], **views: dict) -> list[str]:
        current = {"version": version, "columns": columns}
        return broken_contracts(before, {"m_current": current, **views})

    assert after("1.0.0", {"a": "text", "b": "date"}) == []
    assert after("1.1.0", {"a": "text", "new": "text", "b": "date"}) == []
    assert after("1.0.0", {"a": "text", "new": "text", "b": "date"}) == [
        "m_current changes its columns: raise its second number"
    ]
    for broken in ({"a": "text"}, {"a": "text", "b": "text"}, {"b": "date", "a": "text"}):
        assert "m_current breaks version 1.0.0: raise its first number" in after("1.1.0", broken)
        assert after("2.0.0", broken) == ["m_current_v1 must keep the columns of version 1.0.0"]
        kept = {"version": "1.0.0", "columns": before["m_current"]["columns"]}
        assert after("2.0.0", broken, m_current_v1=kept) == []
    assert broken_contracts(before, {}) == ["m_current is gone: a view goes only after its date"]


if __name__ == "__main__":
    CONTRACTS.write_text(json.dumps(contracts(), indent=1) + "\n", encoding="utf-8")
