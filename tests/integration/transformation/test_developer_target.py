"""``dbt build`` in a shell makes relations of the developer, and no other relation changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.transformation.build import build

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_dbt")]

DAYS = PartitionRange.of("2013-01-01", "2013-01-02")
PREFIX = "dev_tester"
LAYERS = ("staging", "marts", "features", "analytics")


DBT = (str(Path(sys.executable).parent / "dbt"),)
"""As an editor runs it, with the warehouse in the environment."""
NIGHTSHIFT_DBT = (sys.executable, "-m", "nightshift.cli", "dbt")


def run_dbt(
    program: tuple[str, ...], settings: Settings, target_path: Path, *arguments: str
) -> None:
    """Run a dbt command; it must succeed."""
    environment = {
        **os.environ,
        "NIGHTSHIFT_WAREHOUSE_HOST": settings.warehouse_host,
        "NIGHTSHIFT_WAREHOUSE_PORT": str(settings.warehouse_port),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": settings.warehouse_database,
        "NIGHTSHIFT_WAREHOUSE_USER": settings.warehouse_user,
        "NIGHTSHIFT_WAREHOUSE_PASSWORD": settings.warehouse_password.get_secret_value(),
        "NIGHTSHIFT_DBT_SCHEMA": PREFIX,
        "DBT_PROFILES_DIR": str(settings.dbt_project_dir),
        "DBT_PROJECT_DIR": str(settings.dbt_project_dir),
        "DBT_TARGET_PATH": str(target_path),
        "DBT_LOG_PATH": str(target_path),
        "DO_NOT_TRACK": "1",
    }
    result = subprocess.run(
        [*program, *arguments],
        env=environment,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def fingerprint(conn: Connection) -> list[tuple[str, ...]]:
    """Return name, oid and definition of every relation of the warehouse's own schemas."""
    query = """
        select n.nspname, c.relname, c.oid::text,
            case when c.relkind = 'v' then pg_get_viewdef(c.oid) else '' end
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = any(%s) order by 1, 2
    """
    return conn.execute(query, [list(LAYERS)]).fetchall()


def analysts_views(conn: Connection, schema: str, functions: str) -> list[list[tuple[str, ...]]]:
    """Return what the views of predictions and the functions of labels are, whatever the schema."""
    definitions = """
        select c.relname, array_to_string(c.reloptions, ','), pg_get_viewdef(c.oid),
            obj_description(c.oid), (
                select string_agg(col_description(c.oid, a.attnum), '; ' order by a.attnum)
                from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
            )
        from pg_class c
        where c.relnamespace = %s::regnamespace
            and c.relname not in ('data_dictionary', 'health')
        order by 1
    """
    label_functions = """
        select proname, prosrc, proconfig::text, prosecdef::text, prorows::text,
            pg_get_function_result(oid)
        from pg_proc where pronamespace = %s::regnamespace and proname ~ '_labels$' order by 1
    """
    result = []
    for query, name in ((definitions, schema), (label_functions, functions)):
        rows = conn.execute(query.encode(), [name]).fetchall()
        result.append([tuple(map(_in_warehouse, row)) for row in rows])
    return result


def _in_warehouse(text: str) -> str:
    """Return SQL of the developer's relations as it would be in the warehouse."""
    return text.replace(f"{PREFIX}_analytics.", "predictions.").replace(f"{PREFIX}_", "")


@pytest.mark.timeout(300)
def test_build_makes_the_developers_relations_and_leaves_the_warehouse_alone(
    settings: Settings, world, run: RunContext, conn: Connection, tmp_path: Path
) -> None:
    for seed, day in enumerate(DAYS.days):
        world.deliver_day(day, seed=seed)
    build(settings, DAYS, run)
    for spec in load_specs(settings.models_dir).values():
        ensure_prediction_relations(conn, spec, replace_views=True)
    before = fingerprint(conn)
    views = analysts_views(conn, "analytics", "predictions")
    assert [len(rows) for rows in views] == [22, 2]
    # A copy of the warehouse may have another name: nothing that is stored says this one.
    assert settings.warehouse_database not in repr(views)

    # Without a name the newest partition is built; a second run replaces the rows of the first.
    # `+`: dbt drops the views that stand on a table which it builds again.
    run_dbt(DBT, settings, tmp_path, "build")
    run_dbt(NIGHTSHIFT_DBT, settings, tmp_path, "run", "--select", "feat_flight+")

    assert fingerprint(conn) == before
    layers = conn.execute(
        "select nspname from pg_namespace where nspname like %s order by 1", [f"{PREFIX}%"]
    ).fetchall()
    assert [name for (name,) in layers] == sorted(f"{PREFIX}_{layer}" for layer in LAYERS)
    built = conn.execute(
        f"select partition_date, count(*) from {PREFIX}_features.feat_flight group by 1"
    ).fetchall()
    published = conn.execute(
        """
        select l.partition_date, l.n_rows from ops.published p
        join ops.loads l using (dataset, partition_date, load_id)
        where dataset = 'features/flight' order by 1 desc limit 1
        """
    ).fetchall()
    assert published[0][1] > 0
    assert built == published
    assert analysts_views(conn, f"{PREFIX}_analytics", f"{PREFIX}_analytics") == views
    labels = "model.nightshift.fct_flight_labels"
    outcomes = "model.nightshift.flight_delayed_outcomes.v2"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    parents = manifest["parent_map"][outcomes]
    assert {labels, "source.nightshift.predictions.flight_delayed"} <= set(parents)
    assert "exposure.nightshift.flight_delayed" in manifest["child_map"][labels]
    # The warehouse's target never guesses: it makes relations, and no rows.
    n_rows = conn.execute("select count(*) from features.feat_flight").fetchone()
    run_dbt(DBT, settings, tmp_path, "run", "--target", "warehouse", "--select", "feat_flight")
    assert conn.execute("select count(*) from features.feat_flight").fetchone() == n_rows
