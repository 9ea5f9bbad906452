"""Which items a shop shows first: a ranking from training to monitoring."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import ndcg_score
from tests.integration.own_data.project import TRAINING, Project, Shape, noise
from tests.integration.own_data.test_baskets import no_report, rows_of
from tests.integration.own_data.test_shapes import (
    assert_refused,
    code_of_tests,
    in_folder,
    scored,
    scored_states,
)

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.models.predictions import group_codes
from nightshift.provenance.predictions import find_prediction
from nightshift.registry.streams.nights import record_nights
from nightshift.scoring.deadline_fallback import publish_by_deadline
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.scoring.shadow.shadow_scores import score_shadows
from nightshift.training.training_set import build_training_set, read_rows

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("quick_gate", "no_report", "code_of_tests"),
]
__all__ = ["code_of_tests", "no_report", "scored", "scored_states"]

TOP_K = 3
SHOP = Shape(
    numeric={"price": noise("price")},
    categorical={"shop": "(array['north', 'south', 'east', 'west', null])[1 + i %% 5]"},
    # What costs little or much sells, and what is large or small; luck takes some of it away.
    outcome="floor(4 * (abs(amount - 0.5) + abs(price - 0.5)))"
    f" * ({noise('luck')} < 0.95)::integer",
    rows=60,
    spec={
        "task": "ranking",
        "group": "shop",
        "top_k": TOP_K,
        "training": TRAINING | {"num_boost_round": 60},
        "promotion": {"metric": "ndcg", "slices": [{"column": "shop", "minimum_rows": 20}]},
        "scoring": {"reasons": 3, "fallback": {"feature": "rate", "default": 0.3}},
        "monitoring": {
            "metric": "ndcg",
            "maximum_metric_loss": 0.3,
            "windows": {"n": 2, "m": 3},
            "minimum_labels": 20,
            "report_rows": 100,
        },
        "analytics": {"causes": [{"name": "worth", "features": ["amount", "price"]}]},
    },
)


@pytest.fixture
def project(
    settings: Settings, conn: Connection, run: RunContext, tmp_path: Path
) -> Callable[[Shape], Project]:
    """Return a function that makes a project of a shape."""
    own = in_folder(settings, tmp_path)
    return lambda shape: Project(own, conn, run, shape)


def ndcg_of(rows: list[tuple[str | None, float, float]]) -> float:
    """Return the mean NDCG of (group, score, relevance) by scikit-learn, judged groups only."""
    groups = defaultdict(list)
    for group, *row in rows:
        groups[group].append(row)
    values = []
    for own in groups.values():
        score, relevance = np.array(own, dtype=float).T
        if np.ptp(relevance) > 0:
            values.append(ndcg_score([2**relevance - 1], [score], k=TOP_K))
    return float(np.mean(values))


def ranked_by_hand(rows: list[tuple]) -> dict[str, int]:
    """Return the rank of each key of (key, group, score)."""
    places: dict[str | None, int] = defaultdict(int)
    ranks = {}
    for key, group, _ in sorted(rows, key=lambda row: (-row[2], row[0])):
        places[group] += 1
        ranks[key] = places[group]
    return ranks


def test_items_are_trained_published_explained_matured_and_monitored(project, run):
    own = project(SHOP)
    decision = own.train()
    assert decision.verdict == "first", decision.reasons
    # Drawn, and shown on the page of the evidence.
    figures = own.conn.execute("select figures from ml.model_versions").fetchone()
    assert figures[0].keys() == {"importance.png", "backtest.png"}
    key = own.conn.execute("select evidence_page from ml.decisions").fetchone()[0]
    page = ObjectStore.open(own.settings).get(key).decode()
    assert page.count("<svg") == 2
    assert "groups have an order to judge" in page
    assert own.score(own.tonight) == {"champion": 60}

    # Published: a rank in each shop, and the first three of each are chosen.
    published = rows_of(own, "current", "thing_id, shop, score, rank, is_top_k")
    expected = ranked_by_hand([row[:3] for row in published])
    assert {key: rank for key, _, _, rank, _ in published} == expected
    assert all(is_top == (rank <= TOP_K) for *_, rank, is_top in published)
    assert sum(is_top for *_, is_top in published) == 5 * TOP_K

    # Explained: base and effects are the score, to the published digits.
    effects = "effect_1, effect_2, effect_3, other_effects"
    for score, base, *parts in rows_of(own, "current", f"score, base_value, {effects}"):
        known = [part for part in parts if part is not None]
        assert base + sum(known) == pytest.approx(score, abs=1e-12)
        assert abs(known[-1]) < 3e-6
    causes = rows_of(own, "causes", "thing_id, cause, effect, score")
    assert {cause for _, cause, *_ in causes} == {"worth", "other"}
    # The shop moves all rows of its group alike: it is no reason of an order.
    reasons = rows_of(own, "reasons", "thing_id, feature, effect, score")
    assert {feature for _, feature, *_ in reasons} == {"amount", "price"}
    assert len(reasons) == 2 * 60
    prediction = find_prediction(own.conn, own.spec, published[0][0])
    assert prediction.values["rank"] == published[0][3]
    # A replay of single rows gives all but the rank, which is one of all rows of a group.
    assert prediction.values.keys() - prediction.own_values.keys() == {"rank", "is_top_k"}

    # Matured: the monitor's NDCG is that of the published scores, by scikit-learn.
    own.score(own.monitored)
    verdict = own.monitor(own.monitored)
    assert (verdict.n_labels, verdict.maturity, verdict.performance_status) == (60, "mature", "ok")
    outcomes = rows_of(own, "outcomes", "shop, score, outcome, rank")
    assert verdict.metric_value == pytest.approx(ndcg_of([row[:3] for row in outcomes]), abs=1e-9)
    assert verdict.metric_value > 0.8
    measured = {
        (slice_name, value, metric): number
        for slice_name, value, metric, number in own.conn.execute(
            "select slice_name, slice_value, metric, value from monitoring.performance_published"
            " where partition_date = %s",
            [own.tonight.day],
        )
    }
    shops = {"north", "south", "east", "west", "(missing)"}
    assert {value for name, value, _ in measured if name == "shop"} == shops
    hits = sum(outcome > 0 for _, _, outcome, rank in outcomes if rank <= TOP_K)
    assert measured["all", "", "precision_at_k"] == pytest.approx(hits / (5 * TOP_K))
    # Before the labels nothing is estimated: a score says nothing of its own loss.
    own.monitor(own.tonight)
    estimates = own.conn.execute("select count(*) from monitoring.estimates_published")
    assert estimates.fetchone() == (0,)


@pytest.mark.usefixtures("no_figures")
def test_a_rerun_gives_the_same_content(scored):
    own = scored(SHOP)
    (hash_before,) = content_hashes(own)
    assert own.score(own.tonight) == {"champion": 60}
    assert content_hashes(own) == [hash_before]


def content_hashes(own: Project) -> list[str]:
    """Return the content hashes of tonight's published load."""
    rows = own.conn.execute(
        "select content_hash from ops.loads join ops.published"
        " using (dataset, partition_date, load_id)"
        " where dataset = %s and partition_date = %s",
        [own.spec.predictions_dataset, own.tonight.day],
    )
    return [row[0] for row in rows.fetchall()]


@pytest.mark.usefixtures("no_figures")
def test_a_challenger_of_items_is_compared_night_by_night(scored, run):
    own = scored(SHOP)
    own.trained_on = own.trained_on.shift(1)
    decision = own.train()
    assert decision.verdict in ("shadowed", "refused")
    assert not [reason for reason in decision.reasons if "crashed" in reason]
    criteria = decision.numbers["criteria"]
    assert criteria["calibration"] == "not_applicable"
    assert criteria["churn[ranks]"] == "passed"
    assert {"churn[top_k]", "non_inferiority", "slice[shop=north]"} <= criteria.keys()
    assert decision.numbers["slices"]["shop"]["north"]["challenger"]["ndcg"] > 0.8
    night = own.tonight.shift(1)
    own.score(night)
    assert score_shadows(own.settings, own.spec, night, run) is not None
    (recorded,) = record_nights(own.settings, own.spec, own.monitored.shift(1), run)
    assert (recorded.loss, recorded.n_rows) == ("ndcg_loss", 60)
    rows = own.conn.execute(
        "select shop, score, outcome from analytics.thing_model_current"
        " join marts.fct_thing_outcomes o using (thing_id) where o.partition_date = %s",
        [night.shift(1).day],
    ).fetchall()
    assert recorded.champion_loss == pytest.approx(1 - ndcg_of(rows), abs=1e-9)
    assert 0 <= recorded.challenger_loss <= 1


@pytest.mark.usefixtures("no_figures")
def test_the_rule_orders_without_a_champion_and_ties_by_key(project):
    own = project(SHOP)
    assert own.score(own.tonight) == {"fallback_rule": 60}
    published = rows_of(own, "current", "thing_id, shop, score, rank")
    assert {score for _, _, score, _ in published} == {0.3}
    assert {key: rank for key, *_, rank in published} == ranked_by_hand(
        [row[:3] for row in published]
    )
    verdict = own.monitor(own.monitored)
    assert (verdict.n_labels, verdict.maturity) == (60, "mature")


@pytest.mark.usefixtures("no_figures")
def test_a_night_without_features_is_ordered_as_one_group(scored, run):
    changed = scored(replace(SHOP, spec={**SHOP.spec, "entity": RECURRING}))
    night = changed.monitored.shift(2)
    result = publish_by_deadline(changed.settings, changed.spec, night, run)
    assert result.outcome == "rescued", result
    rows = changed.conn.execute(
        b"select rank, is_top_k from analytics.thing_model_current where partition_date = %s"
        b" order by rank",
        [night.day],
    ).fetchall()
    assert rows == [(rank, rank <= TOP_K) for rank in range(1, 61)]


RECURRING = {"name": "thing", "key": "thing_id", "recurs": True}


@pytest.mark.usefixtures("no_figures")
def test_nights_are_groups_when_none_is_declared(project):
    spec = {name: value for name, value in SHOP.spec.items() if name != "group"}
    own = project(replace(SHOP, spec=spec))
    decision = own.train()
    assert decision.is_promoted, decision.reasons
    own.score(own.tonight)
    published = rows_of(own, "current", "thing_id, null, score, rank")
    assert {key: rank for key, *_, rank in published} == ranked_by_hand(
        [row[:3] for row in published]
    )
    verdict = own.monitor(own.monitored)
    assert math.isfinite(verdict.metric_value)


@pytest.mark.usefixtures("no_figures")
def test_a_night_whose_groups_have_no_order_gets_a_verdict(scored, run):
    own = scored(SHOP)
    own.conn.execute(
        "update marts.fct_thing_outcomes set outcome = 0 where partition_date = %s",
        [own.tonight.shift(1).day],
    )
    verdict = own.monitor(own.monitored)
    assert verdict.n_labels == 60
    assert verdict.metric_value is None


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("outcome", [-1, 0.5, 31])
def test_a_label_that_is_no_relevance_is_a_data_error(scored, outcome):
    own = scored(SHOP)
    own.conn.execute(
        "update marts.fct_thing_outcomes set outcome = %s where partition_date = %s"
        " and thing_id like '%%-7'",
        [outcome, own.tonight.shift(1).day],
    )
    with pytest.raises(NightshiftError) as caught:
        own.monitor(own.monitored)
    assert_refused(caught.value, "NS-TRAIN-018")
    assert "1 of 60 labels" in str(caught.value)
    # Scoring reads no label.
    assert own.score(own.tonight.shift(1)) == {"champion": 60}
    own.trained_on = own.monitored.shift(2)
    with pytest.raises(NightshiftError) as caught:
        own.train()
    assert_refused(caught.value, "NS-TRAIN-018")


@pytest.mark.usefixtures("no_figures")
def test_groups_of_one_row_cannot_be_trained_on(project):
    alone = {"shop": "i::text"}
    with pytest.raises(NightshiftError) as caught:
        project(replace(SHOP, categorical=alone, outcome="1 + (amount > 0.5)::int")).train()
    assert_refused(caught.value, "NS-TRAIN-016")
    assert "of one row" in str(caught.value)


@pytest.mark.usefixtures("no_figures")
def test_a_sample_of_the_rows_takes_complete_groups(project, run):
    training = SHOP.spec["training"] | {"maximum_rows": 900}
    own = project(replace(SHOP, spec={**SHOP.spec, "training": training}))
    training_set = build_training_set(own.settings, own.spec, own.trained_on, run)
    rows = read_rows(ObjectStore.open(own.settings), training_set)
    _, sizes = np.unique(group_codes(own.spec, rows), return_counts=True)
    assert set(sizes) == {12}
    assert 30 < sizes.size < 120


@pytest.mark.usefixtures("no_figures")
def test_a_ranking_does_not_take_the_table_of_another_task(project):
    own = project(Shape())
    changed = Project(own.settings, own.conn, own.run, SHOP, is_filled=True)
    with pytest.raises(NightshiftError) as caught:
        ensure_prediction_relations(changed.conn, changed.spec)
    assert_refused(caught.value, "NS-SPEC-004")
