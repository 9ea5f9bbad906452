"""What ``nightshift why`` prints of a prediction of classes."""

from __future__ import annotations

from nightshift.cli.predictions.why import _describe


def test_the_class_and_every_probability_are_shown():
    prediction = {
        "key": "basket-1",
        "partition": "2020-02-02",
        "score": 0.6,
        "probability": 0.55,
        "decile": 7,
        "score_source": "champion",
        "predicted_class": "bulk",
        "raw_score": -0.25,
        "probability_bulk": 0.55,
        "probability_top_up": 0.45,
    }
    publication = dict.fromkeys(
        ("load_id", "token", "run_id", "actor", "published_at", "code_version"), "x"
    )
    facts = {
        "prediction": prediction,
        "reasons": [],
        "causes": [],
        "level": None,
        "publication": publication,
        "model": None,
    }
    lines = _describe(facts)
    assert lines[1] == (
        "class         'bulk', raw score -0.25; probability_bulk 0.55, probability_top_up 0.45"
    )
    # Predictions of other tasks have no such line.
    del prediction["predicted_class"]
    assert len(_describe(facts)) == len(lines) - 1
