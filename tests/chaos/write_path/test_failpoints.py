"""Every failpoint with every type of fault: a rerun ends where an undisturbed run ends.

A point without such a test fails here.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from tests.chaos.write_path.scenarios import SCENARIOS, Scenario, left_behind
from tests.conftest import write_suite
from tests.databases import copy_bucket, create_database, drop_database

from nightshift import failpoints
from nightshift.contracts.run import RunContext, code_version
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, InjectedFaultError
from nightshift.settings import PROJECT_ROOT, Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("fault points"),
]
COMPLETED, FAILED, NOT_REACHED, BROKEN = 0, 3, 4, 5
CASES = [
    pytest.param(
        name,
        point,
        kind,
        id=f"{point}-{kind}",
        marks=[pytest.mark.long] if scenario.is_long else [],
    )
    for name, scenario in SCENARIOS.items()
    for point in scenario.points
    for kind in point.fault_types
]


@dataclass
class Prepared:
    """A scenario's database and bucket before the step, and the result of an undisturbed step."""

    scenario: Scenario
    settings: Settings
    expected: dict[str, list[str]]


@pytest.fixture(scope="module")
def prepared(
    session_settings: Settings, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Prepared]]:
    """Return a function that prepares a scenario the first time it is asked for."""
    os.environ["NIGHTSHIFT_CODE_VERSION"] = "test"
    code_version.cache_clear()
    made: dict[str, Prepared] = {}

    def prepare(name: str) -> Prepared:
        if name not in made:
            scenario = SCENARIOS[name]
            settings = _fresh(session_settings, template_database, tmp_path_factory.mktemp("home"))
            if name == "transform":
                settings = settings.model_copy(
                    update={"expectations_dir": PROJECT_ROOT / "expectations"}
                )
            assert _in_child(lambda: scenario.prepare(settings)) == COMPLETED
            undisturbed = _copy(settings, tmp_path_factory.mktemp("home"))
            assert _in_child(lambda: scenario.step(undisturbed, _run(1))) == COMPLETED
            made[name] = Prepared(scenario, settings, left_behind(undisturbed))
            drop_database(undisturbed)
        return made[name]

    yield prepare
    for one in made.values():
        drop_database(one.settings)
    del os.environ["NIGHTSHIFT_CODE_VERSION"]
    code_version.cache_clear()


@pytest.mark.promise("R4")
@pytest.mark.parametrize(("name", "point", "kind"), CASES)
def test_rerun_ends_like_an_undisturbed_run_when_a_fault_strikes(
    prepared, tmp_path, name, point, kind, record_figure
):
    before = prepared(name)
    settings = _copy(before.settings, tmp_path)
    try:
        ended = _in_child(lambda: before.scenario.step(settings, _run(1)), f"{point}:1:{kind}")
        assert ended == -signal.SIGKILL if kind == "crash" else ended in {COMPLETED, FAILED}

        assert _in_child(lambda: before.scenario.step(settings, _run(2))) == COMPLETED
        assert left_behind(settings) == before.expected
        assert any(before.expected.values())
    finally:
        drop_database(settings)
    record_figure("fault_points_survived", 1)


@pytest.mark.promise("R4")
def test_every_fault_point_is_broken_by_a_scenario(record_figure):
    covered = Counter(point for scenario in SCENARIOS.values() for point in scenario.points)

    assert covered == Counter(Failpoint)
    record_figure("fault_points", len(covered))


def test_every_fault_point_is_passed_in_one_place_of_the_code():
    places = Counter(
        name
        for path in (PROJECT_ROOT / "plugins" / "nightshift").rglob("*.py")
        for name in _points_reached(path)
    )

    assert places == Counter(Failpoint.__members__.keys())


def _points_reached(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hit":
            point = node.args[0]
            assert isinstance(point, ast.Attribute), (
                f"{path}:{node.lineno} passes no member of Failpoint"
            )
            yield point.attr


@pytest.mark.parametrize(
    "text",
    [
        "nowhere:1:crash",
        "write.begin.before:1:lost_answer",
        "write.begin.before:0:crash",
        "write.begin.before",
    ],
)
def test_a_fault_that_could_never_strike_is_refused(text):
    with pytest.raises(ValueError, match=r"nowhere|counts from 1|unpack"):
        failpoints.enable(text)
    failpoints.enable("")


def test_a_fault_strikes_at_the_passage_that_it_names():
    failpoints.enable("write.begin.before:2:exception")
    failpoints.hit(Failpoint.BEGIN_BEFORE)
    failpoints.hit(Failpoint.BEGIN_AFTER)
    with pytest.raises(InjectedFaultError):
        failpoints.hit(Failpoint.BEGIN_BEFORE)
    failpoints.hit(Failpoint.BEGIN_BEFORE)
    failpoints.enable("")


def _run(attempt: int) -> RunContext:
    return RunContext("test/step", attempt, "test")


def _in_child(work: Callable[[], object], fault: str = "", seconds: float = 120) -> int:
    """Run in a forked child, which takes milliseconds to start; return how it ended."""
    child = os.fork()
    if child == 0:
        os._exit(_end_of(work, fault))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"the step with fault {fault!r} took more than {seconds} s")


def _end_of(work: Callable[[], object], fault: str) -> int:
    try:
        failpoints.enable(fault)
        work()
    except (NightshiftError, psycopg.Error):
        if not fault:
            traceback.print_exc(file=sys.stderr)
            return BROKEN
        return FAILED if failpoints.has_struck() else BROKEN
    except BaseException:  # noqa: BLE001  (a forked child must not run on as a second pytest)
        traceback.print_exc(file=sys.stderr)
        return BROKEN
    return COMPLETED if not fault or failpoints.has_struck() else NOT_REACHED


def _fresh(settings: Settings, template: str, home: Path) -> Settings:
    for dataset in ("raw/airports", "raw/carriers"):
        write_suite(home / "expectations", dataset)
    places = {
        "home": home,
        "expectations_dir": home / "expectations",
        "mlflow_tracking_uri": SecretStr(""),
    }
    return create_database(settings, template).model_copy(update=places)


def _copy(settings: Settings, home: Path) -> Settings:
    """Return a copy of database and bucket; the suites stay where they are."""
    copied = _fresh(settings, settings.warehouse_database, home).model_copy(
        update={"expectations_dir": settings.expectations_dir}
    )
    copy_bucket(settings, copied)
    return copied
