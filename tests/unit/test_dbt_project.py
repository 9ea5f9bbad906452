"""A number that decides stands once: in ``dbt_project.yml``, for SQL, Python and specs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.dbt_variables import dbt_folder
from nightshift.contracts.partitions import Partition
from nightshift.errors import SettingsError
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.ledger import lookback_days, lookback_of

PROJECT = PROJECT_ROOT / "dbt_project"
VARIABLES = yaml.safe_load((PROJECT / "dbt_project.yml").read_text(encoding="utf-8"))["vars"]
SQL = sorted(path for folder in ("models", "macros") for path in (PROJECT / folder).rglob("*.sql"))
CALENDAR = "int_holidays.sql"
"""Its numbers are days of months."""


def use_project(monkeypatch: pytest.MonkeyPatch, folder: Path, variables: str) -> None:
    (folder / "dbt_project.yml").write_text(f"vars: {{{variables}}}\n")
    monkeypatch.setenv("NIGHTSHIFT_DBT_PROJECT_DIR", str(folder))


def test_python_waits_for_the_days_that_dbt_looks_back_on(tmp_path, monkeypatch):
    contract = load_contracts(PROJECT_ROOT / "dags" / "datasets")["weather"]
    assert lookback_days() == VARIABLES["lookback_days"]

    use_project(monkeypatch, tmp_path, "lookback_days: 7, operating_timezone: America/New_York")

    days = lookback_of(contract, Partition.parse("2013-03-01"))
    assert (str(days[0]), len(days)) == ("2013-02-22", 8)


def test_python_reads_the_dbt_project_that_the_homes_settings_name(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "env").write_text(f"NIGHTSHIFT_DBT_PROJECT_DIR={tmp_path / 'dbt'}\n")
    monkeypatch.delenv("NIGHTSHIFT_DBT_PROJECT_DIR", raising=False)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(home))

    assert dbt_folder() == tmp_path / "dbt"


@pytest.mark.parametrize("variables", ["", "lookback_days: 0", "lookback_days: x"])
def test_a_look_back_is_refused_when_it_is_no_number_of_days(tmp_path, monkeypatch, variables):
    use_project(monkeypatch, tmp_path, variables)
    with pytest.raises(SettingsError, match=r"vars\.lookback_days"):
        lookback_days()


@pytest.mark.parametrize("name", ["lookback_days", "delayed_minutes", "evening_begins_hour"])
def test_no_sql_repeats_the_value_of_a_variable(name):
    value = re.compile(rf"(?<![\w.:-]){VARIABLES[name]}(?![\w.:-])")
    assert len(SQL) > 40
    repeated = [path.name for path in SQL if value.search(path.read_text(encoding="utf-8"))]
    assert [file for file in repeated if file != CALENDAR] == []


def test_every_variable_is_read_by_some_sql():
    read = set()
    for path in SQL:
        read |= set(re.findall(r"""var\(['"](\w+)['"]\)""", path.read_text(encoding="utf-8")))
    assert read == set(VARIABLES)


def test_no_python_and_no_spec_has_a_look_back_or_a_delay_of_its_own():
    files = [
        path
        for folder in ("plugins", "dags", "examples")
        for pattern in ("*.py", "models/*.yaml")
        for path in (PROJECT_ROOT / folder).rglob(pattern)
    ]
    assert len(files) > 200
    second = re.compile(
        r"^\s*(LOOKBACK_DAYS|lookback_days|delayed_minutes)\b[^=\n(]*=\s*\d", re.MULTILINE
    )
    own = [path.name for path in files if second.search(path.read_text(encoding="utf-8"))]
    assert own == []


def test_what_a_spec_says_to_people_about_a_late_flight_is_the_variable():
    spec = (PROJECT_ROOT / "dags" / "models" / "flight_delayed.yaml").read_text(encoding="utf-8")
    assert re.findall(r"(\d+) minutes late", spec) == [str(VARIABLES["delayed_minutes"])]
