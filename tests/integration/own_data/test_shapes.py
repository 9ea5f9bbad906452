"""Data of other shapes are trained, scored and monitored, or refused with a code and a page."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from tests.conftest import write_suite
from tests.databases import copied, own_database
from tests.integration.own_data.project import FIRST, TRAINING, Project, Shape, noise
from tests.reference_profiles import store_reference

from nightshift.contracts.run import RunContext, code_version
from nightshift.errors import NightshiftError
from nightshift.monitoring import verdict_report
from nightshift.monitoring.report import Report
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.training.splits import split_window
from nightshift.training.training_set import mature_window
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.registry.promotion import Decision
    from nightshift.warehouse.connection import Connection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("quick_gate"),
]

REGRESSION = {
    "task": "regression",
    "promotion": {"metric": "mae"},
    "monitoring": {
        "metric": "mae",
        "maximum_metric_loss": 1.0,
        "windows": {"n": 2, "m": 3},
        "minimum_labels": 20,
        "report_rows": 100,
    },
}


@pytest.fixture(scope="module", autouse=True)
def code_of_tests() -> Iterator[None]:
    """Let all versions be of the same code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_CODE_VERSION", "test")
        code_version.cache_clear()
        yield
    code_version.cache_clear()


@pytest.fixture
def project(
    settings: Settings, conn: Connection, run: RunContext, tmp_path: Path
) -> Callable[[Shape], Project]:
    """Return a function that makes a project of a shape."""
    own = in_folder(settings, tmp_path)
    return lambda shape: Project(own, conn, run, shape)


@pytest.fixture(scope="module")
def scored_states(
    session_settings: Settings, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Shape], Settings]]:
    """Return a function that gives the database of a shape that was trained and scored.

    It is made once, to be copied.
    """
    states: dict[str, Settings] = {}
    run = RunContext("test/state", 1, "test")
    with ExitStack() as stack:

        def state_of(shape: Shape) -> Settings:
            name = repr(shape)
            if name not in states:
                state = stack.enter_context(own_database(session_settings, template_database))
                own = in_folder(state, tmp_path_factory.mktemp("scored"))
                with connect(own, "test") as conn:
                    made = Project(own, conn, run, shape)
                    assert made.train().is_promoted
                    made.score(made.tonight)
                    made.score(made.monitored)
                    store_reference(own, conn, made.spec, made.monitored, run)
                states[name] = state
            return states[name]

        yield state_of


@pytest.fixture
def scored(
    scored_states: Callable[[Shape], Settings], run: RunContext, tmp_path: Path
) -> Iterator[Callable[[Shape], Project]]:
    """Return a function that gives a project whose champion has scored its two nights."""
    with ExitStack() as stack:

        def copy_of(shape: Shape) -> Project:
            own = in_folder(stack.enter_context(copied(scored_states(shape))), tmp_path)
            conn = stack.enter_context(connect(own, "test"))
            return Project(own, conn, run, shape, is_filled=True)

        yield copy_of


def in_folder(settings: Settings, folder: Path) -> Settings:
    """Return settings with home and suites in a folder, and without MLflow."""
    changed = {
        "home": folder,
        "mlflow_tracking_uri": SecretStr(""),
        "expectations_dir": write_suite(folder / "expectations", "predictions/thing_model"),
    }
    return settings.model_copy(update=changed)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report away where a test is not about it: Evidently takes seconds."""
    monkeypatch.setattr(verdict_report, "make_report", lambda *_: Report(b"<html></html>", b"{}"))


def assert_judged(decision: Decision) -> None:
    """Check that a challenger was promoted or refused, and that no check died of the data."""
    assert decision.verdict in {"first", "shadowed", "refused"}
    assert not [reason for reason in decision.reasons if "crashed" in reason]


def assert_refused(error: NightshiftError, code: str) -> None:
    """Check code and page of a refusal, which another try would meet again."""
    assert (error.code, error.is_retryable) == (code, False)
    assert (PROJECT_ROOT / "docs" / "runbooks" / f"{code}.md").is_file()


ODD_COLUMNS = {
    "a category whose levels occur once each": Shape(categorical={"customer": "thing_id"}),
    "a number that is empty": Shape(numeric={"discount": "null"}),
    "a category of one level": Shape(categorical={"country": "'DE'"}),
    "a category with odd characters": Shape(
        categorical={"email": """'Jürgen "J" O''Neil; 100 %%s \\ ' || i"""}, minimum_rows=1
    ),
}
LONG_SHAPES = {
    "303 features": Shape(numeric={f"x{n}": noise(f"x{n}") for n in range(302)}),
    **ODD_COLUMNS,
}
SHAPES = {
    "a category that is empty": Shape(categorical={"campaign": "null"}),
    # `make storm` has a test of each of them alone.
    "odd columns together": Shape(
        numeric=dict(ChainMap(*[shape.numeric for shape in ODD_COLUMNS.values()])),
        categorical=dict(ChainMap(*[shape.categorical for shape in ODD_COLUMNS.values()])),
        # An e-mail address occurs on each of the 20 days of the fit, a customer once.
        minimum_rows=10,
    ),
    **LONG_SHAPES,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name in LONG_SHAPES)) for name in SHAPES],
)
def test_the_shape_is_trained_scored_and_monitored_with_a_report(project, name):
    own = project(SHAPES[name])

    decision = own.train()
    assert_judged(decision)
    assert decision.is_promoted, decision.reasons
    assert own.score(own.tonight) == {"champion": own.shape.rows}
    own.score(own.monitored)
    verdict = own.monitor(own.monitored)

    assert verdict.n_features == len(own.spec.features.names)
    assert (verdict.n_labels, verdict.maturity) == (own.shape.rows, "mature")
    # On a busy machine a report of 303 columns may not be ready in time; the verdict stands.
    is_late = name.startswith("303") and "not finished in time" in (verdict.report_problem or "")
    assert verdict.report_key is not None or is_late, verdict.report_problem


@pytest.mark.usefixtures("no_report")
def test_a_category_that_was_empty_in_training_drifts_when_it_is_filled(project):
    own = project(Shape(categorical={"campaign": "case when day > '2020-02-01' then 'summer' end"}))
    assert own.train().is_promoted
    assert own.score(own.tonight) == {"champion": own.shape.rows}
    own.monitor(own.tonight)
    drift = own.conn.execute(
        "select is_drifted from monitoring.drift_published where feature = 'campaign'"
    ).fetchall()
    assert drift == [(True,)]


@pytest.mark.long
def test_a_category_of_200_000_levels_is_trained_scored_and_monitored(project):
    """Of the 30 days, 18 are fitted: 11,200 levels each."""
    shape = Shape(categorical={"customer": "thing_id"}, minimum_rows=1, rows=11_200)
    own = project(shape)

    decision = own.train()
    assert_judged(decision)
    source = "champion" if decision.is_promoted else "fallback_rule"
    assert own.score(own.tonight) == {source: shape.rows}
    verdict = own.monitor(own.tonight)
    assert verdict.report_problem is None


MATURITIES = [7, pytest.param(45, marks=pytest.mark.long)]
"""Days; the longer wait follows the same rule over more nights."""


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("maturity_days", MATURITIES)
def test_outcomes_count_on_the_day_on_which_they_mature(scored, maturity_days):
    own = scored(Shape(maturity_days=maturity_days))
    window = mature_window(own.spec, own.trained_on)
    assert (window.first, window.last) == (FIRST, own.trained_on.shift(-1 - maturity_days))

    for partition, n_labels in ((own.monitored.shift(-1), 0), (own.monitored, 40)):
        own.score(partition)
        verdict = own.monitor(partition)
        is_tonight = verdict.evaluated_partition == own.tonight.day
        assert is_tonight == (partition == own.monitored)
        assert verdict.n_labels == n_labels
    assert (own.monitored.day - own.tonight.day).days == maturity_days + 1
    assert (verdict.maturity, verdict.performance_status) == ("mature", "ok")


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("maturity_days", MATURITIES)
def test_outcomes_that_come_a_day_too_late_are_immature(scored, maturity_days):
    own = scored(Shape(maturity_days=maturity_days))
    own.conn.execute("update marts.fct_thing_outcomes set known_at = known_at + interval '1 day'")
    verdict = own.monitor(own.monitored)
    assert (verdict.n_labels, verdict.maturity) == (0, "immature")
    assert verdict.performance_status == "unknown"


ONE_NIGHT = "where partition_date = %s"


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("change", "n_labels", "maturity", "status"),
    [
        ("update marts.fct_thing_outcomes set outcome = 0", 40, "mature", None),
        ("update marts.fct_thing_outcomes set outcome = 1", 40, "mature", None),
        ("update marts.fct_thing_outcomes set outcome = null", 0, "immature", "unknown"),
        ("delete from marts.fct_thing_outcomes", 0, "immature", "unknown"),
    ],
    ids=["all negative", "all positive", "never labelled", "none"],
)
def test_a_night_of_one_class_or_without_outcomes_gets_a_verdict(
    scored, change, n_labels, maturity, status
):
    own = scored(Shape())
    own.conn.execute(f"{change} {ONE_NIGHT}".encode(), [own.tonight.shift(1).day])

    verdict = own.monitor(own.monitored)

    assert (verdict.n_labels, verdict.maturity) == (n_labels, maturity)
    assert verdict.report_problem is None
    if status is None:
        assert verdict.performance_status in {"ok", "breached"}
        assert verdict.metric_value is not None
    else:
        assert (verdict.performance_status, verdict.metric_value) == (status, None)


@pytest.mark.usefixtures("no_report")
def test_a_regression_of_constant_labels_is_refused_with_a_code(project):
    own = project(Shape(outcome="5", spec=REGRESSION))
    with pytest.raises(NightshiftError) as caught:
        own.train()
    assert_refused(caught.value, "NS-TRAIN-003")
    # The night is published all the same, by the rule.
    assert own.score(own.tonight) == {"fallback_rule": 40}
    verdict = own.monitor(own.tonight)
    assert verdict.model_version is None


@pytest.mark.parametrize("part", ["train", "validation", "holdout"])
def test_a_regression_of_constant_labels_in_a_part_is_judged_or_refused(project, part):
    own = project(Shape(outcome="10 * abs(amount - 0.5)", spec=REGRESSION))
    window = mature_window(own.spec, own.trained_on)
    days = getattr(split_window(window, own.spec.training), part)
    own.conn.execute(
        "update marts.fct_thing_outcomes set outcome = 5"
        " where partition_date - 1 between %s and %s",
        [days.first.day, days.last.day],
    )
    if part == "train":
        with pytest.raises(NightshiftError) as caught:
            own.train()
        assert_refused(caught.value, "NS-TRAIN-016")
    else:
        assert_judged(own.train())
    assert sum(own.score(own.tonight).values()) == 40


@pytest.mark.usefixtures("no_report")
def test_a_weekly_model_publishes_empty_nights_and_its_sundays(project):
    """Entities exist on Sundays only: 40 of 280 days."""
    training = TRAINING | {
        "schedule": "weekly",
        "window_days": 280,
        "minimum_days": 38,
        "validation_days": 14,
        "holdout_days": 21,
    }
    own = project(Shape(days="extract(isodow from day) = 7", spec={"training": training}))
    assert_judged(own.train())
    sunday = own.tonight
    while sunday.day.isoweekday() != 7:
        sunday = sunday.shift(-1)
    for partition, n_rows in ((sunday.shift(-3), 0), (sunday, 40)):
        assert sum(own.score(partition).values()) == n_rows
        verdict = own.monitor(partition)
        assert verdict.report_problem is None
        published = own.conn.execute(
            "select count(*) from ops.published where dataset = 'predictions/thing_model'"
            " and partition_date = %s",
            [partition.day],
        ).fetchone()
        assert published == (1,)
