"""A rollback that a person asks for in Airflow's form, and what becomes of it when its run is
cleared later."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from tests.databases import copied, own_database
from tests.integration.scoring.conftest import (
    open_registry,
    publish_features,
    scoring_settings,
    spec,
)

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.orchestration import rollback_tasks
from nightshift.orchestration import task_scope as scopes
from nightshift.registry.rollback import RollbackRefusedError, history
from nightshift.scoring.pipeline import score
from nightshift.settings import Settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

__all__ = ["scoring_settings", "spec"]
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

DAYS = PartitionRange.of("2013-07-02", "2013-07-04")
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def two_champions(
    session_settings: Settings, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Let version 1 score the first night, and version 2 the two after it.

    Return a database to be copied.
    """
    with own_database(session_settings, template_database) as own:
        with open_registry(own, tmp_path_factory.mktemp("suites")) as registry:
            publish_features(registry.conn, DAYS)
            registry.promote("2013-07-02", seed=1)
            registry.promote("2013-07-03", seed=2)
            run = RunContext("score/test", 1, "test")
            score(registry.settings, registry.spec, DAYS, run)
        yield own


@pytest.fixture
def settings(two_champions: Settings) -> Iterator[Settings]:
    """Return settings of a copy of what two champions have scored."""
    with copied(two_champions) as own:
        yield own


@pytest.fixture
def ask(
    scoring_settings: Settings, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ask]:
    """Return a function that runs both tasks as Airflow does after somebody has filled in the
    form."""

    def run_both(asked_in: str = "manual__1", **form: object) -> dict[str, Any]:
        params = {
            "model": spec.name,
            "to_version": 1,
            "since": None,
            "reason": "scores look wrong",
            "only_plan": False,
            **form,
        }
        dag_run = SimpleNamespace(
            dag_id="rollback", run_id=asked_in, partition_key=None, triggering_user_name="ann"
        )
        given = {
            "dag_run": dag_run,
            "ti": SimpleNamespace(task_id="a_task", try_number=1, map_index=-1),
            "task": SimpleNamespace(execution_timeout=dt.timedelta(minutes=5)),
        }
        monkeypatch.setattr(scopes, "get_current_context", lambda: given)
        plan = rollback_tasks.plan_repair.function(params, dag_run)
        return rollback_tasks.repair_partitions.function(plan, params, dag_run)

    for module in (scopes, rollback_tasks):
        monkeypatch.setattr(module, "load_settings", lambda: scoring_settings)
    monkeypatch.setattr(scopes.TaskScope, "spec", lambda *_: spec)
    before = signal.getsignal(signal.SIGTERM)
    yield run_both
    signal.signal(signal.SIGTERM, before)


def served(conn: Connection) -> list[int]:
    """Return which version scored each published night, the oldest first."""
    query = (
        "select min(t.model_version) from predictions.parcel_late t join "
        "ops.published p using (partition_date, load_id)"
        " where p.dataset = 'predictions/parcel_late' group by partition_date "
        "order by partition_date"
    )
    return [version for (version,) in conn.execute(query)]


@pytest.mark.promise("R19")
def test_form_puts_the_version_back_under_the_name_of_who_asked(
    conn: Connection, spec: ModelSpec, ask: Ask
) -> None:
    assert served(conn) == [1, 2, 2]
    done = ask()
    assert served(conn) == [1, 1, 1]
    last = history(conn, spec.name)[-1]
    assert done == {
        "version": 1,
        "since": "2013-07-03",
        "n_partitions": 2,
        "promotion_id": last.promotion_id,
        "n_changed": 2,
    }
    assert (last.actor, list(last.reasons), last.run_id) == (
        "airflow:ann",
        ["scores look wrong"],
        "rollback/2013-07-03/manual__1",
    )


def test_nothing_moves_when_only_the_plan_is_wanted(
    conn: Connection, spec: ModelSpec, ask: Ask
) -> None:
    record = history(conn, spec.name)
    with pytest.raises(AirflowSkipException, match=r"2 partition\(s\) would be published again"):
        ask(only_plan=True)
    assert served(conn) == [1, 2, 2]
    assert history(conn, spec.name) == record


def test_nothing_moves_when_the_version_never_was_champion(conn: Connection, ask: Ask) -> None:
    with pytest.raises(RollbackRefusedError, match="no former champion"):
        ask(to_version=7)
    assert served(conn) == [1, 2, 2]


@pytest.mark.promise("R19")
def test_cleared_run_changes_nothing_more(conn: Connection, spec: ModelSpec, ask: Ask) -> None:
    ask()
    record = history(conn, spec.name)
    assert ask()["n_changed"] == 0
    assert history(conn, spec.name) == record


@pytest.mark.promise("R19")
def test_cleared_run_is_skipped_when_somebody_has_decided_since(
    conn: Connection, spec: ModelSpec, ask: Ask
) -> None:
    ask()
    ask("manual__2", to_version=2, since="2013-07-03")
    assert served(conn) == [1, 2, 2]
    record = history(conn, spec.name)
    with pytest.raises(
        AirflowSkipException, match="made version 2 champion since, decided by airflow:ann"
    ):
        ask()
    assert served(conn) == [1, 2, 2]
    assert history(conn, spec.name) == record
