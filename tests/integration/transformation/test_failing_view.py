"""A feature view that fails keeps no other view from being published."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import NightshiftError, WarehouseError
from nightshift.quality.gate_errors import GateError
from nightshift.transformation import build as stage
from nightshift.transformation.build import NoFeatureViewError, build
from nightshift.warehouse.dbt.invocation import DbtError
from nightshift.warehouse.dbt.project import FeatureView
from nightshift.warehouse.dbt.runner import ModelRun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.promise("R18")]

NIGHT = PartitionRange.of("2013-03-10")
VIEWS = [
    FeatureView(name, "shop_id", {"shop_id": "text"}) for name in ("baskets", "shops", "tills")
]


class Project:
    """Three feature views, of which a test breaks some."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.broken: dict[str, str] = {}
        for view in VIEWS:
            conn.execute(
                f"create table features.{view.table} (partition_date date, load_id bigint,"
                " shop_id text)".encode()
            )

    def ensure(self, _: Settings) -> bool:
        self._raise_for(
            {f"feat_{name}" for name, where in self.broken.items() if where == "relations"}
        )
        return True

    def run(
        self, _: Settings, tables: Sequence[str], variables: Mapping[str, Any], __: str
    ) -> list[ModelRun]:
        for table in tables:
            n_rows = 0 if self.broken.get(table.removeprefix("feat_")) == "audit" else 3
            query = (
                f"insert into features.{table} select %s, %s, n::text from generate_series(1,"
                f" {n_rows}) n"
            )
            self.conn.execute(query.encode(), [NIGHT.first.day, variables["load_id"]])
        self._raise_for(
            {table for table in tables if self.broken.get(table.removeprefix("feat_")) == "dbt"}
        )
        return [ModelRun(table, "success", 0.1, "") for table in tables]

    def gate(self, _: Settings, dataset: str, *__: object) -> None:
        if self.broken.get(dataset.removeprefix("features/")) == "gate":
            raise GateError(f"{dataset} was refused")

    def _raise_for(self, tables: set[str]) -> None:
        if tables:
            error = DbtError("dbt model failed", got="division by zero")
            error.models = tuple(tables)
            raise error


@pytest.fixture
def project(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(conn)
    monkeypatch.setattr(stage, "feature_views", lambda _: VIEWS)
    monkeypatch.setattr(stage, "ensure_relations", project.ensure)
    monkeypatch.setattr(stage, "run_models", project.run)
    no_contracts = SimpleNamespace(documents={}, broken={})
    monkeypatch.setattr(stage, "read_contracts", lambda _: no_contracts)
    monkeypatch.setattr("nightshift.quality.gates.run_gate", project.gate)
    return project


def published(conn: Connection) -> set[str]:
    return {name for (name,) in conn.execute("select dataset from ops.published")}


@pytest.mark.parametrize("where", ["relations", "dbt", "audit", "gate"])
def test_the_other_views_are_published_when_one_fails(
    project: Project, settings: Settings, run: RunContext, where: str
) -> None:
    project.broken = {"shops": where}
    result = build(settings, NIGHT, run)
    assert published(project.conn) == {"features/baskets", "features/tills"}
    assert result.summary()["failures"].keys() == {"shops"}
    assert {(load.dataset, load.n_rows) for load in result.published} == {
        ("features/baskets", 3),
        ("features/tills", 3),
    }
    with pytest.raises(NightshiftError, match=r"failed|refused"):
        result.require_all()


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_other_views_are_published_when_a_trigger_takes_rows_of_one(
    project: Project, settings: Settings, run: RunContext, monkeypatch, when: str
) -> None:
    body = "begin return null; end"
    if when == "after":
        body = "begin delete from features.feat_shops where shop_id = '1'; return null; end"
    project.conn.execute(
        f"create function public.meddle() returns trigger language plpgsql as $$ {body} $$;"
        f" create trigger meddles {when} insert on features.feat_shops for each row"
        " execute function public.meddle()".encode()
    )
    stored = project.run
    # What the server reports of an insert, before a trigger has deleted anything.
    monkeypatch.setattr(
        stage,
        "run_models",
        lambda *given: [replace(one, n_rows=3) for one in stored(*given)],
    )

    result = build(settings, NIGHT, run)

    assert published(project.conn) == {"features/baskets", "features/tills"}
    code = {"before": "NS-WAREHOUSE-015", "after": "NS-WRITE-003"}[when]
    assert {name: error.code for name, error in result.failures.items()} == {"shops": code}


def test_each_failure_is_named_when_two_views_fail_in_their_own_ways(
    project: Project, settings: Settings, run: RunContext
) -> None:
    project.broken = {"shops": "dbt", "tills": "gate"}
    failures = build(settings, NIGHT, run).failures
    assert {name: error.code for name, error in failures.items()} == {
        "shops": "NS-DBT-001",
        "tills": "NS-GATE-001",
    }
    assert published(project.conn) == {"features/baskets"}


def test_nothing_is_published_and_the_error_is_raised_when_all_views_fail(
    project: Project, settings: Settings, run: RunContext
) -> None:
    project.broken = dict.fromkeys(("baskets", "shops", "tills"), "gate")
    with pytest.raises(GateError):
        build(settings, NIGHT, run)
    assert published(project.conn) == set()


def test_all_views_are_published_after_the_repair(
    project: Project, settings: Settings, run: RunContext
) -> None:
    project.broken = {"shops": "gate"}
    before = build(settings, NIGHT, run).published
    project.broken = {}
    result = build(settings, NIGHT, run)
    assert result.failures == {}
    assert {load.dataset for load in result.published if load.is_new} == {"features/shops"}
    assert {load.load_id for load in before} < {load.load_id for load in result.published}


def test_no_view_is_to_blame_when_the_warehouse_stopped_under_dbt(
    project: Project, settings: Settings, run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise WarehouseError("The connection to the warehouse broke.")

    monkeypatch.setattr(stage, "run_models", stop)
    with pytest.raises(WarehouseError):
        build(settings, NIGHT, run)
    assert published(project.conn) == set()


def test_a_project_without_a_feature_view_is_refused_and_told_what_to_add(
    settings: Settings, conn: Connection, run: RunContext, tmp_path: Path
) -> None:
    folder = tmp_path / "dbt_project"
    shutil.copytree(
        settings.dbt_project_dir, folder, ignore=shutil.ignore_patterns("features", "target")
    )
    changed = {"dbt_project_dir": folder, "home": tmp_path / "home"}

    with pytest.raises(NoFeatureViewError) as caught:
        build(settings.model_copy(update=changed), NIGHT, run)

    assert (caught.value.code, caught.value.is_retryable) == ("NS-TRANSFORM-004", False)
    assert "nightshift backfill 2013-03-10 2013-03-10" in str(caught.value)
    assert "docs/own-model.md, step 2" in str(caught.value)
    assert conn.execute("select count(*) from ops.loads").fetchone() == (0,)
