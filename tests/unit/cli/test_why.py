"""What ``nightshift why`` prints of a prediction of classes, or of a ranking."""

from __future__ import annotations

from nightshift.cli.predictions.why import describe


def facts_of(prediction: dict[str, object]) -> dict[str, object]:
    publication = dict.fromkeys(
        ("load_id", "token", "run_id", "actor", "published_at", "code_version"), "x"
    )
    return {
        "prediction": prediction,
        "reasons": [],
        "causes": [],
        "level": None,
        "publication": publication,
        "model": None,
    }


def test_the_class_and_every_probability_are_shown():
    prediction: dict[str, object] = {
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
    facts = facts_of(prediction)
    lines = describe(facts)
    assert lines[1] == (
        "class         'bulk', raw score -0.25; probability_bulk 0.55, probability_top_up 0.45"
    )
    # Predictions of other tasks have no such line.
    del prediction["predicted_class"]
    assert len(describe(facts)) == len(lines) - 1


def test_the_rank_in_its_group_is_shown():
    prediction: dict[str, object] = {
        "key": "item-1",
        "partition": "2020-02-02",
        "score": 1.5,
        "probability": None,
        "decile": 10,
        "score_source": "champion",
        "rank": 3,
        "is_top_k": True,
    }
    assert describe(facts_of(prediction))[1] == "rank          3 in its group, chosen"
    lower = prediction | {"rank": 11, "is_top_k": False}
    assert describe(facts_of(lower))[1] == "rank          11 in its group, not chosen"
