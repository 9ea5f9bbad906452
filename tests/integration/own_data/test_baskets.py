"""Which kind of basket a customer brings: three classes from training to monitoring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.integration.own_data.project import TRAINING, Project, Shape, noise
from tests.integration.own_data.test_shapes import (
    assert_refused,
    code_of_tests,
    in_folder,
    scored,
    scored_states,
)

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring import verdict_report
from nightshift.monitoring.report import Report
from nightshift.provenance.predictions import find_prediction
from nightshift.registry.streams.nights import record_nights
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.scoring.shadow.shadow_scores import score_shadows

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("quick_gate", "no_report", "code_of_tests"),
]
__all__ = ["code_of_tests", "scored", "scored_states"]

CLASSES = ["Top-up", "weekly shop", "bulk {100%}'s"]
COLUMNS = ["probability_top_up", "probability_weekly_shop", "probability_bulk_100_s"]
BASKETS = Shape(
    numeric={"items": f"floor(20 * {noise('items')})"},
    categorical={"shop": "(array['north', 'south'])[1 + i %% 2]"},
    # Middling amounts are top-ups, others bulk in the south; one in ten is something else.
    outcome="(array['Top-up', 'weekly shop', 'bulk {100%%}''s'])[1 + (("
    "case when abs(amount - 0.5) < 0.2 then 0 when shop = 'south' and items > 4 then 2 else 1 end"
    f" + ({noise('luck')} < 0.1)::int * floor(3 * {noise('other')})::int) %% 3)]",
    outcome_type="text",
    rows=60,
    spec={
        "task": "multiclass",
        "classes": CLASSES,
        "training": TRAINING | {"num_boost_round": 40},
        "promotion": {"metric": "log_loss", "slices": [{"column": "shop", "minimum_rows": 20}]},
        "scoring": {"reasons": 3, "fallback": {"shares": [0.4, 0.4, 0.2]}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.3,
            "windows": {"n": 2, "m": 3},
            "minimum_labels": 20,
            "report_rows": 100,
        },
        "analytics": {"causes": [{"name": "size", "features": ["amount", "items"]}]},
    },
)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report away: Evidently takes seconds."""
    monkeypatch.setattr(verdict_report, "make_report", lambda *_: Report(b"<html></html>", b"{}"))


@pytest.fixture
def project(
    settings: Settings, conn: Connection, run: RunContext, tmp_path: Path
) -> Callable[[Shape], Project]:
    """Return a function that makes a project of a shape."""
    own = in_folder(settings, tmp_path)
    return lambda shape: Project(own, conn, run, shape)


def rows_of(own: Project, view: str, columns: str) -> list[tuple]:
    """Return columns of a view, tonight, in the order of the keys."""
    return own.conn.execute(
        f"select {columns} from analytics.thing_model_{view}"
        " where partition_date = %s order by thing_id".encode(),
        [own.tonight.day],
    ).fetchall()


def test_baskets_are_trained_published_explained_matured_and_monitored(project, run):
    own = project(BASKETS)
    decision = own.train()
    assert decision.verdict == "first", decision.reasons
    # Drawn, and shown on the page of the evidence.
    figures = own.conn.execute("select figures from ml.model_versions").fetchone()
    assert figures[0].keys() == {"reliability.png", "importance.png", "backtest.png"}
    key = own.conn.execute("select evidence_page from ml.decisions").fetchone()[0]
    page = ObjectStore.open(own.settings).get(key).decode()
    assert page.count("<svg") == 2
    assert own.score(own.tonight) == {"champion": 60}

    # Published: one column per class, which add up, and the likeliest one is predicted.
    published = rows_of(own, "current", f"predicted_class, probability, {', '.join(COLUMNS)}")
    assert len(published) == 60
    for predicted, probability, *classes in published:
        assert sum(classes) == pytest.approx(1, abs=1e-12)
        assert probability == max(classes) == classes[CLASSES.index(predicted)]
    assert {row[0] for row in published} == set(CLASSES)

    # Explained: base and effects are the raw score of the predicted class, to the published digits.
    effects = "effect_1, effect_2, effect_3, other_effects"
    for raw, base, *parts in rows_of(own, "current", f"raw_score, base_value, {effects}"):
        known = [part for part in parts if part is not None]
        assert base + sum(known) == pytest.approx(raw, abs=1e-12)
        assert abs(known[-1]) < 3e-6
    causes = rows_of(own, "causes", "thing_id, cause, effect, predicted_class")
    assert {cause for _, cause, *_ in causes} == {"size", "other"}

    # Matured: the mean of a column of the view is the log loss that the monitor publishes.
    own.score(own.monitored)
    verdict = own.monitor(own.monitored)
    assert (verdict.n_labels, verdict.maturity, verdict.performance_status) == (60, "mature", "ok")
    outcomes = rows_of(own, "outcomes", "outcome, predicted_class, is_correct, log_loss")
    assert verdict.metric_value == pytest.approx(sum(row[3] for row in outcomes) / 60, abs=1e-12)
    assert verdict.metric_value < 0.8
    n_right = sum(outcome == predicted for outcome, predicted, *_ in outcomes)
    assert n_right == sum(row[2] for row in outcomes) > 40
    measured = {
        (slice_name, value, metric): number
        for slice_name, value, metric, number in own.conn.execute(
            "select slice_name, slice_value, metric, value from monitoring.performance_published"
            " where partition_date = %s",
            [own.tonight.day],
        )
    }
    assert measured["all", "", "accuracy"] == pytest.approx(n_right / 60)
    for name in CLASSES:
        of_class = [right for outcome, _, right, _ in outcomes if outcome == name]
        assert measured["outcome", name, "recall"] == pytest.approx(sum(of_class) / len(of_class))

    # Before the labels: the expected log loss is the entropy of what was published.
    entropy = -sum(p * math.log(p) for _, _, *classes in published for p in classes) / 60
    own.monitor(own.tonight)
    estimates = dict(
        own.conn.execute(
            "select metric, estimate from monitoring.estimates_published"
            " where partition_date = %s and span = 'night'",
            [own.tonight.day],
        ).fetchall()
    )
    assert estimates.keys() == {"log_loss", "brier", "accuracy"}
    assert estimates["log_loss"] == pytest.approx(entropy, rel=0.02)


@pytest.mark.usefixtures("no_figures")
def test_a_challenger_of_baskets_is_compared_night_by_night(scored, run):
    own = scored(BASKETS)
    own.trained_on = own.trained_on.shift(1)
    decision = own.train()
    assert decision.verdict in ("shadowed", "refused")
    assert not [reason for reason in decision.reasons if "crashed" in reason]
    own.score(own.tonight.shift(1))
    assert score_shadows(own.settings, own.spec, own.tonight.shift(1), run) is not None
    (night,) = record_nights(own.settings, own.spec, own.monitored.shift(1), run)
    assert (night.loss, night.n_rows) == ("log_loss", 60)
    # The published rows give the champion's loss by another way.
    rows = own.conn.execute(
        f"select outcome, {', '.join(COLUMNS)} from analytics.thing_model_current"
        " join marts.fct_thing_outcomes o using (thing_id) where o.partition_date = %s".encode(),
        [own.tonight.shift(2).day],
    ).fetchall()
    losses = [-math.log(classes[CLASSES.index(outcome)]) for outcome, *classes in rows]
    assert night.champion_loss == pytest.approx(sum(losses) / 60, abs=1e-12)
    assert night.challenger_loss != night.champion_loss


def test_the_rule_publishes_the_declared_shares_without_a_champion(project):
    own = project(BASKETS)
    assert own.score(own.tonight) == {"fallback_rule": 60}
    columns = f"predicted_class, probability, raw_score, {', '.join(COLUMNS)}"
    assert set(rows_of(own, "current", columns)) == {("Top-up", 0.4, None, 0.4, 0.4, 0.2)}
    verdict = own.monitor(own.monitored)
    assert (verdict.n_labels, verdict.maturity) == (60, "mature")


@pytest.mark.parametrize("kept", [["Top-up"], CLASSES[:2]], ids=["one class", "two classes"])
def test_a_night_that_lacks_classes_gets_a_verdict(scored, kept):
    own = scored(BASKETS)
    own.conn.execute(
        "delete from marts.fct_thing_outcomes where partition_date = %s and outcome <> all(%s)",
        [own.tonight.shift(1).day, kept],
    )
    verdict = own.monitor(own.monitored)
    assert 0 < verdict.n_labels < 60
    assert math.isfinite(verdict.metric_value)


@pytest.mark.usefixtures("no_figures")
def test_a_class_that_is_absent_in_training_is_published_as_hardly_possible(project):
    never = replace(
        BASKETS, outcome=f"replace({BASKETS.outcome}, 'bulk {{100%%}}''s', 'weekly shop')"
    )
    own = project(never)
    decision = own.train()
    assert decision.is_promoted, decision.reasons
    assert own.score(own.tonight) == {"champion": 60}
    assert all(0 < row[0] < 1e-4 for row in rows_of(own, "current", COLUMNS[2]))


def test_a_label_outside_of_the_classes_is_a_data_error(scored):
    own = scored(BASKETS)
    own.conn.execute(
        "update marts.fct_thing_outcomes set outcome = 'secret' where partition_date = %s"
        " and thing_id like '%%-7'",
        [own.tonight.shift(1).day],
    )
    with pytest.raises(NightshiftError) as caught:
        own.monitor(own.monitored)
    assert_refused(caught.value, "NS-TRAIN-018")
    assert "1 of 60 labels" in str(caught.value)
    assert "secret" not in str(caught.value)
    # Scoring reads no label.
    assert own.score(own.tonight.shift(1)) == {"champion": 60}
    own.trained_on = own.monitored.shift(2)
    with pytest.raises(NightshiftError) as caught:
        own.train()
    assert_refused(caught.value, "NS-TRAIN-018")


def test_a_version_of_other_classes_gives_way_to_the_rule(scored):
    own = scored(BASKETS)
    changed = other_classes(own, {"classes": CLASSES[::-1]})
    night = changed.tonight.shift(1)
    assert changed.score(night) == {"fallback_rule": 60}
    prediction = find_prediction(changed.conn, changed.spec, f"{night}-1")
    # The shares are those of the classes in their new order.
    assert (prediction.version, prediction.values[COLUMNS[0]]) == (None, 0.2)


def test_a_class_that_the_table_does_not_have_is_refused(project):
    own = project(BASKETS)
    more = {
        "classes": [*CLASSES, "none"],
        "scoring": {"fallback": {"shares": [0.4, 0.3, 0.2, 0.1]}},
    }
    changed = other_classes(own, more)
    with pytest.raises(NightshiftError) as caught:
        ensure_prediction_relations(changed.conn, changed.spec)
    assert_refused(caught.value, "NS-SPEC-004")


def other_classes(own: Project, changes: dict[str, object]) -> Project:
    """Return the same project with a changed spec."""
    shape = replace(BASKETS, spec={**BASKETS.spec, **changes})
    return Project(own.settings, own.conn, own.run, shape, is_filled=True)
