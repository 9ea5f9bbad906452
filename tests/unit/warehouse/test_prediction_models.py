"""The dbt models of predictions are what the specs say, also after a spec came, changed or went."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, select_autoescape

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.dbt.prediction_models import (
    FOLDER,
    model_files,
    write_prediction_models,
)
from nightshift.warehouse.relations.prediction_columns import prediction_views

SPECS = PROJECT_ROOT / "dags" / "models"
DBT = PROJECT_ROOT / "dbt_project"


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec(SPECS, "flight_delayed")


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

    names = [f"flight_late_{kind}.sql" for kind in ("current", "history", "outcomes")]
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
    environment = Environment(loader=FileSystemLoader(DBT), autoescape=select_autoescape([]))
    macros = environment.get_template("macros/predictions.sql").module
    rows = {"predictions": "t", "dataset": spec.predictions_dataset, "key": spec.entity.key}
    selects = {
        "current": macros.current_predictions(published="p", **rows),
        "history": macros.prediction_history(loads="l", **rows),
        "outcomes": macros.prediction_outcomes(
            published="p", label_function="f", maturity_days=1, **rows
        ),
    }

    for kind, view in prediction_views(spec).items():
        body = selects[kind].split("\nfrom ")[0].rsplit("select\n", 1)[1]
        names = [re.findall(r"(\w+)\"?$", line)[0] for line in body.split(",\n")]
        assert names == list(view.columns)
        described = next(m for m in properties(spec)["models"] if m["name"].endswith(kind))
        assert [column["name"] for column in described["columns"]] == names
        assert all(column["description"] for column in described["columns"])
