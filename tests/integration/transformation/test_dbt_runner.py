from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.databases import own_database
from tests.ready_dbt import patch_dbt

from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.transformation.build import build
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt import project
from nightshift.warehouse.dbt.invocation import DbtError, DbtProcessError, run_dbt
from nightshift.warehouse.dbt.project import feature_views, parsed_project, raw_lineage
from nightshift.warehouse.dbt.runner import ensure_relations
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

ANOTHER_VIEW = """
select
    flight_id,
    scheduled_departure_at as event_timestamp,
    as_of,
    partition_date,
    {{ var("load_id") }}::bigint as load_id,
    distance_miles::double precision as distance_miles
from {{ ref("int_flight_spine") }}
"""
ANOTHER_YAML = """
version: 2
models:
  - name: feat_short
    config: {meta: {entity_key: flight_id}}
    columns:
      - {name: flight_id, data_type: text}
      - {name: event_timestamp, data_type: timestamp with time zone}
      - {name: as_of, data_type: timestamp with time zone}
      - {name: partition_date, data_type: date}
      - {name: load_id, data_type: bigint}
      - {name: distance_miles, data_type: double precision}
"""


@pytest.fixture
def own_project(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with a copy of the dbt project and the suites that a test may change.

    As long as nothing changes, its relations are there.
    """
    shutil.copytree(
        PROJECT_ROOT / "dbt_project",
        tmp_path / "dbt_project",
        ignore=shutil.ignore_patterns("target", "logs"),
    )
    shutil.copytree(PROJECT_ROOT / "expectations", tmp_path / "expectations")
    return settings.model_copy(
        update={
            "dbt_project_dir": tmp_path / "dbt_project",
            "expectations_dir": tmp_path / "expectations",
        }
    )


@pytest.fixture
def warm_dbt_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start dbt as a fork in one test; a killed parent's dbt starts as in production."""
    patch_dbt(monkeypatch)


def relations(conn: Connection) -> set[str]:
    return {
        row[0]
        for row in conn.execute(
            "select relname from pg_class c join pg_namespace n on n.oid = relnamespace"
            " where nspname = 'features'"
        )
    }


@pytest.mark.usefixtures("warm_dbt_here")
def test_relations_are_made_once_when_two_callers_ask_at_the_same_time(
    session_settings: Settings, template_database: str
) -> None:
    with own_database(session_settings, template_database) as settings:
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(lambda _: ensure_relations(settings), range(2)))

        assert sorted(made) == [False, True]
        with connect(settings, "test") as conn:
            assert "feat_flight" in relations(conn)
            n_rows = conn.execute("select count(*) from features.feat_flight").fetchone()
            assert n_rows == (0,)
            assert conn.execute(
                "select count(*) from analytics.data_dictionary where description is null"
            ).fetchone() == (0,)


@pytest.mark.usefixtures("warm_dbt_here")
def test_views_on_a_mart_stand_and_new_columns_come_when_the_project_changes(
    own_project: Settings, conn: Connection
) -> None:
    ensure_relations(own_project)
    conn.execute(
        "create view analytics.labels as select flight_id, is_delayed from marts.fct_flight_labels"
    )
    conn.execute("alter table features.feat_flight drop column distance_miles")
    model = own_project.dbt_project_dir / "models" / "marts" / "flights" / "fct_flight_labels.sql"
    changed = model.read_text().replace(">= {{", "> {{")
    assert changed != model.read_text()
    model.write_text(changed)

    assert ensure_relations(own_project)
    assert conn.execute("select count(*) from analytics.labels").fetchone() == (0,)
    assert conn.execute("select count(distance_miles) from features.feat_flight").fetchone() == (0,)
    assert not ensure_relations(own_project)


@pytest.mark.mlts("data-6")
@pytest.mark.usefixtures("warm_dbt_here")
def test_the_error_says_how_to_replace_a_view_when_it_loses_a_column(
    own_project: Settings, conn: Connection
) -> None:
    ensure_relations(own_project)
    model = own_project.dbt_project_dir / "models" / "marts" / "flights" / "fct_flight_labels.sql"
    model.write_text(
        model.read_text().replace("        flight_id,", "        flight_id as flight,")
    )

    with pytest.raises(DbtError, match="fct_flight_labels") as caught:
        ensure_relations(own_project)

    assert "may only gain columns" in str(caught.value)


@pytest.mark.usefixtures("warm_dbt_here")
def test_a_new_feature_view_is_published_when_a_model_and_a_suite_are_added(
    own_project: Settings, world, run: RunContext
) -> None:
    folder = own_project.dbt_project_dir / "models" / "features"
    (folder / "feat_short.sql").write_text(ANOTHER_VIEW)
    (folder / "_short.yml").write_text(ANOTHER_YAML)
    suite = {
        "name": "features/short",
        "expectations": [
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "flight_id"}}
        ],
    }
    (own_project.expectations_dir / "features" / "short.json").write_text(json.dumps(suite))
    world.deliver_day(PartitionRange.of("2013-01-01").first.day, seed=1)

    result = build(own_project, PartitionRange.of("2013-01-01"), run)

    assert [(load.dataset, load.n_rows) for load in result.published] == [
        ("features/flight", 5),
        ("features/short", 5),
    ]
    assert [(view.name, view.entity_key) for view in feature_views(own_project)] == [
        ("flight", "flight_id"),
        ("short", "flight_id"),
    ]


def test_models_of_the_project_name_the_datasets_that_they_read(settings: Settings) -> None:
    lineage = raw_lineage(settings)
    assert {"raw/flight_schedules", "raw/weather"} <= lineage["feat_flight"]
    assert lineage["stg_weather"] == {"raw/weather"}


@pytest.mark.usefixtures("warm_dbt_here")
def test_the_error_shows_the_cause_when_the_project_cannot_be_parsed(own_project: Settings) -> None:
    (own_project.dbt_project_dir / "models" / "features" / "feat_broken.sql").write_text(
        "select * from {{ ref('nowhere') }}"
    )
    with pytest.raises(DbtProcessError, match="cannot be parsed") as caught:
        parsed_project(own_project)
    assert "nowhere" in str(caught.value)
    assert own_project.warehouse_password.get_secret_value() not in str(caught.value)


@pytest.mark.parametrize("damaged", ["manifest.json", "partial_parse.msgpack", "digests"])
def test_the_project_is_parsed_again_when_what_was_kept_of_it_is_damaged(
    settings: Settings, tmp_path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    """Its SQL would be run as it stands there."""
    settings, parses = settings.model_copy(update={"home": tmp_path}), []

    def parse(_settings, arguments, target, *_):
        parses.append(arguments)
        for name in ("manifest.json", "partial_parse.msgpack"):
            (target / name).write_text("select delay")
        return 0, ""

    monkeypatch.setattr(project, "call_dbt", parse)
    folder = parsed_project(settings).folder
    assert parsed_project(settings).folder == folder
    assert parses == [["parse"]]

    content = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(bytes([content[0] ^ 1]) + content[1:])

    assert parsed_project(settings).folder == folder
    assert len(parses) == 2
    assert (folder / "manifest.json").read_text() == "select delay"


@pytest.mark.mlts("data-7")
@pytest.mark.usefixtures("warm_dbt_here")
def test_unit_tests_of_the_project_pass(settings: Settings, world, run: RunContext) -> None:
    world.deliver_day(PartitionRange.of("2013-01-01").first.day, seed=1)
    build(settings, PartitionRange.of("2013-01-01"), run)
    tested = run_dbt(settings, ["test"], parsed_project(settings).msgpack, "test dbt")
    failed = [result["unique_id"] for result in tested.results if result["status"] != "pass"]
    assert (tested.exit_code, failed) == (0, []), tested.output
    n_unit_tests = sum(r["unique_id"].startswith("unit_test.") for r in tested.results)
    assert n_unit_tests >= 7


def test_every_model_and_each_of_its_columns_is_described(
    settings: Settings, conn: Connection
) -> None:
    ensure_relations(settings)

    wrong = []
    for model in parsed_project(settings).models.values():
        columns = {name: column["description"] for name, column in model["columns"].items()}
        existing = table_columns(conn, model["schema"], model["name"])
        is_ephemeral = model["config"]["materialized"] == "ephemeral"
        # An ephemeral model has no relation to compare with.
        is_complete = is_ephemeral or columns.keys() == existing.keys()
        if not (is_complete and columns and all(columns.values()) and model["description"]):
            wrong.append(model["name"])
    assert wrong == []


@pytest.mark.promise("R17")
def test_dbt_ends_when_its_parent_is_killed(
    settings: Settings, conn: Connection, tmp_path: Path
) -> None:
    ensure_relations(settings)
    script = (
        "from nightshift.settings import Settings;"
        " from nightshift.warehouse.dbt import runner as d; import os\n"
        f"s = Settings(_env_file=None, warehouse_database={settings.warehouse_database!r})\n"
        "d.run_models(s, ['feat_flight'], {'load_id': 1,"
        " 'as_of': {'2013-01-01': '2013-01-02T05:30:00+00:00'}}, 'to be killed')\n"
    )
    env = os.environ | {"PYTHONPATH": str(PROJECT_ROOT / "plugins")}
    with conn.transaction():
        conn.execute("lock table features.feat_flight in access exclusive mode")
        parent = subprocess.Popen([sys.executable, "-c", script], env=env)
        _wait_for(lambda: _children_of(parent.pid))
        children = _children_of(parent.pid)
        with connect(settings, "test") as watch:
            _wait_for(lambda: _waits_for_a_lock(watch, "to be killed"))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    _wait_for(
        lambda: (
            conn.execute(
                "select count(*) from pg_stat_activity where application_name = 'to be killed'"
            ).fetchone()
            == (0,)
        )
    )
    assert conn.execute("select count(*) from features.feat_flight").fetchone() == (0,)


def _waits_for_a_lock(conn: Connection, application_name: str) -> bool:
    query = "select wait_event_type from pg_stat_activity where application_name = %s"
    return ("Lock",) in conn.execute(query, [application_name]).fetchall()


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
