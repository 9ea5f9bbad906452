"""Engines and reasons on a real warehouse: proofs are stored, other reasons are a new load."""

from __future__ import annotations

import logging

import pytest
from tests.integration.scoring.conftest import DAY, publish_features

from nightshift.models.engines import quickscorer
from nightshift.models.engines.quickscorer import VERSION
from nightshift.models.shapley.shap_values import METHOD
from nightshift.provenance.predictions import reason_methods, sample_predictions
from nightshift.scoring import plan, scorer
from nightshift.scoring.pipeline import score
from nightshift.scoring.reasons import top_reasons

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]
PROOF = {
    "n_rows": 200,
    "raw_sha256": "0",
    "engines": {"quickscorer": {"version": VERSION, "objection": None}},
}


def _scores(conn) -> list[tuple]:
    return conn.execute(
        "select parcel_id, score, reasons from analytics.parcel_late_current order by 1"
    ).fetchall()


def _engines(monkeypatch) -> set[str]:
    """Return a set that fills with the names of the engines that score."""
    used, choose = set(), scorer.choose_engine

    def noted(model, choice):
        chosen = choose(model, choice)
        used.add(chosen.name)
        return chosen

    monkeypatch.setattr(scorer, "choose_engine", noted)
    return used


def test_a_proved_version_is_scored_by_the_accelerated_engine_to_the_same_content(
    registry, warehouse, scoring_settings, spec, run, monkeypatch
):
    publish_features(warehouse)
    registry.promote("2013-07-01", proof=PROOF)
    used = _engines(monkeypatch)
    (first,) = score(scoring_settings, spec, DAY, run)
    published = _scores(warehouse)
    assert used == {"quickscorer"}

    monkeypatch.setattr(quickscorer, "VERSION", "2")
    used.clear()
    (second,) = score(scoring_settings, spec, DAY, run)

    assert used == {"lightgbm"}
    assert (second.load_id, second.is_new, _scores(warehouse)) == (first.load_id, False, published)


def test_an_error_is_logged_and_scores_published_when_the_demanded_engine_was_not_proved(
    registry, warehouse, scoring_settings, spec, run, caplog
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    demanding = spec.model_copy(
        update={"scoring": spec.scoring.model_copy(update={"engine": "quickscorer"})}
    )
    score(scoring_settings, demanding, DAY, run)

    assert {
        row
        for (row,) in warehouse.execute("select score_source from analytics.parcel_late_current")
    } == {"champion"}
    assert any(
        record.levelno == logging.ERROR and "without a proof" in record.message
        for record in caplog.records
    )


def test_a_rerun_is_a_new_load_when_the_method_of_the_reasons_has_changed(
    registry, warehouse, scoring_settings, spec, run, monkeypatch
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    monkeypatch.setattr(plan, "METHOD", "path/1")
    with monkeypatch.context() as patch:
        patch.setattr(
            scorer, "top_reasons", lambda added, names, rows, n: top_reasons(added, names, rows, 0)
        )
        (old,) = score(scoring_settings, spec, DAY, run)
    monkeypatch.undo()
    (new,) = score(scoring_settings, spec, DAY, run)

    assert (new.is_new, new.load_id > old.load_id) == (True, True)
    predictions = sample_predictions(warehouse, spec, 100, 1)
    assert reason_methods(warehouse, spec, predictions) == {
        old.load_id: "path/1",
        new.load_id: METHOD,
    }
