"""Challengers that must not serve, each refused by the criterion that names its fault.

They share a court, since none changes anything.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.integration.registry.conftest import FEATURES, NIGHT, RUN, make_spec
from tests.raw_bucket import overwrite

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.registry import promotion, promotion_gate
from nightshift.registry.model_versions import register
from nightshift.registry.performance_checks import churn
from nightshift.training.candidate import Provenance, store_candidate
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_between, rows_of, split_window

pytestmark = [
    pytest.mark.integration,
    pytest.mark.mlts("infra-4"),
    pytest.mark.usefixtures("no_figures"),
]


def flipped(court, mask):
    label = court.column("is_late").astype(bool)
    return court.with_column("is_late", np.where(mask, ~label, label))


def refused_by(court, decision):
    """Return the names of the refusing criteria; the champion is still the first version."""
    assert decision.verdict == "refused"
    assert promotion.champion_for(court.conn, court.spec.name, NIGHT.shift(1)).version == 1
    return set(court.refusals(decision))


# The line of a recipe would repair trees that learnt nothing.
TREES_ALONE = {"recipe": {"linear": {"shares": [0]}}}


def recalibrated(model, slope=1.0, intercept=0.0):
    found = model.calibration
    return replace(
        model,
        calibration={
            "method": "platt",
            "slope": found["slope"] * slope,
            "intercept": found["intercept"] * slope + intercept,
        },
    )


@pytest.mark.mlts("model-5")
def test_refused_by_baselines_and_champion_when_labels_are_shuffled(court):
    shuffled = np.random.default_rng(3).permutation(court.column("is_late"))
    found = refused_by(court, court.judge(court.fit(rows=court.with_column("is_late", shuffled))))
    assert {"non_inferiority", "baseline[linear]", "baseline[tree]"} <= found


def test_refused_as_inferior_when_signs_are_flipped(court):
    found = refused_by(court, court.judge(court.fit(rows=flipped(court, True))))
    assert {"non_inferiority", "baseline[prior]", "baseline[rule]", "churn[ranks]"} <= found


def test_refused_as_inferior_when_overfit(court):
    rounds = {"num_boost_round": 200, "early_stopping_rounds": 200}
    spec = make_spec(training={**rounds, **TREES_ALONE})
    model = court.fit(spec, num_leaves=200, min_data_in_leaf=1, learning_rate=0.5)
    # Rounds that other days choose keep its ranking; its probabilities are far too sure.
    assert "non_inferiority[log_loss]" in refused_by(court, court.judge(model))


def test_refused_by_scores_when_constant(court):
    constant = court.fit(make_spec(training=TREES_ALONE), min_data_in_leaf=13_000)
    assert "scores" in refused_by(court, court.judge(constant))


@pytest.mark.mlts("mon-3")
def test_refused_by_agreement_when_training_saw_what_scoring_does_not(court):
    late = court.column("is_late").astype(float)
    rows = court.with_column("distance", court.column("distance") + late)
    training_set = court.keep_rows(rows)
    model = replace(
        court.fit(rows=rows),
        training={"training_set": training_set.key, "split": court.fit().training["split"]},
    )
    assert "feature_agreement" in refused_by(court, court.judge(model, training_set=training_set))


@pytest.mark.mlts("data-1")
def test_refused_by_leakage_when_a_feature_is_the_outcome(court):
    spec = make_spec(features={"numeric": FEATURES})
    decision = court.judge(court.fit(spec), spec)
    # The baselines use the hint as well, and need less than a forest for it.
    assert "leakage" in refused_by(court, decision)
    assert any("hint separates the labels best: 1.000" in reason for reason in decision.reasons)


def test_refused_by_calibration_when_probabilities_are_too_high(court):
    assert "calibration[excess]" in refused_by(
        court, court.judge(recalibrated(court.fit(), intercept=1.5))
    )


def test_refused_by_calibration_error_when_above_a_declared_limit(court):
    spec = make_spec(promotion={"maximum_calibration_error": 0.001})
    assert "calibration[error]" in refused_by(court, court.judge(court.fit(num_leaves=21), spec))


def test_refused_by_calibration_slope_when_over_confident(court):
    assert "calibration[slope]" in refused_by(
        court, court.judge(recalibrated(court.fit(), slope=4.0))
    )


@pytest.mark.mlts("model-6")
def test_refused_by_its_slice_when_broken_in_one(court):
    rows = flipped(court, court.column("carrier") == "C")
    found = refused_by(court, court.judge(court.fit(rows=rows, num_leaves=15)))
    assert "slice[carrier=C]" in found
    assert not {"slice[carrier=A]", "slice[carrier=B]"} & found


def test_refused_by_window_when_trained_on_a_hole(court):
    day = court.rows["partition_date"]
    hole = pc.and_(
        pc.greater(day, pa.scalar(dt.date(2020, 1, 8))),
        pc.less(day, pa.scalar(dt.date(2020, 1, 15))),
    )
    rows = court.rows.filter(pc.invert(hole))
    training_set = court.keep_rows(rows)
    model = court.fit(rows=rows)
    decision = court.judge(
        replace(model, training={**model.training, "training_set": training_set.key}),
        training_set=training_set,
    )
    assert refused_by(court, decision) == {"training_window"}
    assert "At most 6 day(s) in a row have no row" in decision.reasons[0]


@pytest.mark.mlts("mon-4")
def test_refused_by_window_when_stale(court):
    model = court.fit(num_leaves=6)
    found = refused_by(court, court.judge(model, night=NIGHT.shift(9)))
    assert "training_window" in found


@pytest.mark.mlts("mon-2")
def test_refused_by_signature_when_trained_on_other_features(court):
    decision = court.judge(court.fit(make_spec(features={"numeric": ["wind", "is_fragile"]})))
    assert "signature" in refused_by(court, decision)
    assert "lacks distance, weight" in decision.reasons[0]


def test_refused_by_signature_when_features_stand_in_another_order(court):
    decision = court.judge(court.fit(make_spec(features={"numeric": FEATURES[3::-1]})))
    assert "signature" in refused_by(court, decision)
    assert "in another order" in decision.reasons[0]


def test_refused_by_signature_when_the_view_lacks_a_column(court):
    spec = make_spec(features={"numeric": [*FEATURES[:4], "unheard_of"]})
    rows = court.rows.append_column("unheard_of", pa.array(np.zeros(court.rows.num_rows)))
    decision = court.judge(court.fit(spec, rows=rows))
    assert {"signature", "feature_agreement"} <= refused_by(court, decision)


def test_refused_by_agreement_when_scoring_cannot_find_the_rows(court):
    training_set = court.keep_rows(
        court.with_column("parcel_id", np.array([f"other-{i}" for i in range(court.rows.num_rows)]))
    )
    model = court.fit(num_leaves=9)
    decision = court.judge(
        replace(model, training={**model.training, "training_set": training_set.key}),
        training_set=training_set,
    )
    assert "feature_agreement" in refused_by(court, decision)
    assert "900 of 900 rows are not found" in " ".join(decision.reasons)


@pytest.mark.mlts("mon-6")
def test_refused_by_time_when_slow(court):
    found = refused_by(
        court,
        court.judge(
            court.fit(num_leaves=31), make_spec(promotion={"maximum_scoring_seconds": 0.001})
        ),
    )
    assert "scoring_time" in found


def test_refused_by_size_when_huge(court):
    found = refused_by(
        court,
        court.judge(court.fit(num_leaves=30), make_spec(promotion={"maximum_model_bytes": 10_000})),
    )
    assert "model_size" in found


@pytest.mark.mlts("mon-5")
def test_refused_when_a_leaf_is_not_a_number(court):
    model = court.fit(num_leaves=4)
    text = re.sub(r"(leaf_value=)\S+", r"\1nan", model.text, count=1)
    broken = store_candidate(
        court.store,
        model,
        Provenance(court.training_set.key, NIGHT, dt.date(2020, 2, 2), "", "test"),
        [],
        {},
    )
    sha = court.store.put("models/nan.lgb", text.encode())
    version = register(
        court.settings,
        replace(
            broken,
            model_key="models/nan.lgb",
            model_sha256=sha,
            model_bytes=len(text),
            digest="nan" * 20,
        ),
        RUN,
    )
    decision = promotion.decide(court.settings, court.spec, version.version, RUN)
    assert {"provenance", "scores", "non_inferiority"} <= refused_by(court, decision)
    assert "NS-MODEL" in decision.reasons[0]


def test_refused_by_provenance_when_files_name_another_training_set(court):
    model = court.fit(num_leaves=8)
    decision = court.judge(
        replace(model, training={**model.training, "training_set": "training_sets/other"})
    )
    assert "provenance" in refused_by(court, decision)


def test_refused_by_provenance_when_it_hides_what_it_has_seen(court):
    model = court.fit(num_leaves=10)
    late = model.training["split"].replace("2020-02-02", "2020-02-10")
    assert late != model.training["split"]
    assert "provenance" in refused_by(
        court, court.judge(replace(model, training={**model.training, "split": late}))
    )


def test_refused_by_rows_when_it_has_seen_the_holdout(court):
    decision = court.judge(court.fit(num_leaves=11), fit_end="2020-02-13")
    assert "evidence_rows" in refused_by(court, decision)
    assert "No row is later than everything" in " ".join(decision.reasons)


def test_refused_by_rows_when_too_few_days_are_unseen(court):
    decision = court.judge(court.fit(num_leaves=12), fit_end="2020-02-09")
    assert "evidence_rows" in refused_by(court, decision)
    assert "600 rows of 2 day(s)" in " ".join(decision.reasons) or "of 3 day(s)" in " ".join(
        decision.reasons
    )


def test_refused_by_its_leaves_when_it_has_seen_the_days_that_judge_it(court):
    """It was fitted on the hold-out too, and files and registration claim that it was not."""
    split = split_window(court.training_set.window, court.spec.training)
    everything = rows_between(court.rows, split.train.first.day, split.holdout.last.day)
    seen = fit_model(court.spec, everything, rows_of(court.rows, split.validation))
    honest = court.fit(num_leaves=9)
    decision = court.judge(replace(honest, text=seen.text, calibration=seen.calibration))
    assert refused_by(court, decision) == {"fitted_rows"}
    assert "The trees were grown on 15,600 rows, the split has 9,600" in " ".join(decision.reasons)


def test_refused_by_copies_when_rows_are_doubled(court):
    rows = pa.concat_tables([court.rows, court.rows.slice(0, 300)]).sort_by(
        [("partition_date", "ascending"), ("parcel_id", "ascending")]
    )
    training_set = court.keep_rows(rows)
    model = court.fit(rows=rows, num_leaves=13)
    decision = court.judge(
        replace(model, training={**model.training, "training_set": training_set.key}),
        training_set=training_set,
    )
    assert "unique_rows" in refused_by(court, decision)
    assert "300 of 13500 rows are copies" in " ".join(decision.reasons)


def test_refused_by_churn_when_too_many_rows_change_their_decile(court):
    found = refused_by(
        court,
        court.judge(court.fit(num_leaves=14), make_spec(promotion={"maximum_decile_churn": 0.05})),
    )
    assert "churn[deciles]" in found


def test_refused_by_churn_by_default_when_scores_are_unrelated_to_the_champions(court):
    champion = promotion.champion_for(court.conn, court.spec.name, NIGHT.shift(1))
    unrelated = court.case(court.register(court.fit(num_leaves=9)), champion)
    scores = unrelated.of("challenger")
    order = np.random.default_rng(5).permutation(scores.score.size)
    unrelated.predictions["challenger"] = scores.at(order)
    found = {criterion.name: criterion for criterion in churn(unrelated)}
    assert found["churn[deciles]"].verdict == "failed"
    assert found["churn[deciles]"].limit == 0.8
    assert found["churn[deciles]"].number == pytest.approx(0.9, abs=0.03)


@pytest.mark.mlts("model-7")
def test_refused_by_fairness_when_a_group_is_called_more_often(court):
    spec = make_spec(
        features={"categorical": [{"name": "carrier"}, {"name": "depot"}]},
        promotion={"fairness": [{"column": "depot"}]},
    )
    unfair = court.with_column(
        "is_late", court.column("is_late").astype(bool) | (court.column("depot") == "south")
    )
    found = refused_by(court, court.judge(court.fit(spec, rows=unfair), spec))
    assert {"fairness[depot selection]", "fairness[depot calibration]"} <= found
    fair = court.judge(court.fit(spec), spec)
    assert not {name for name in court.refusals(fair) if name.startswith("fairness")}
    assert fair.numbers["criteria"]["fairness[depot selection]"] == "passed"


@pytest.mark.mlts("model-5")
def test_refused_by_linear_baseline_when_barely_trained(court):
    spec = make_spec(training={"num_boost_round": 1, **TREES_ALONE})
    found = refused_by(court, court.judge(court.fit(spec, num_leaves=2)))
    assert {"baseline[linear]", "baseline[tree]", "non_inferiority"} <= found


def test_refused_by_rule_when_it_gains_too_little_on_it(court):
    found = refused_by(
        court,
        court.judge(
            court.fit(num_leaves=16), make_spec(promotion={"minimum_gain_over_baseline": 0.4})
        ),
    )
    assert {"baseline[prior]", "baseline[rule]"} <= found


def test_refused_when_a_criterion_crashes(court, monkeypatch):
    monkeypatch.setitem(promotion_gate.CHECKS, "leakage", lambda case: 1 / 0)
    decision = court.judge(court.fit(num_leaves=17))
    assert court.refusals(decision)["leakage"] == "unknown"
    assert "leakage: no verdict, it crashed with ZeroDivisionError" in " ".join(decision.reasons)


def test_refused_when_a_criterion_answers_nothing(court, monkeypatch):
    monkeypatch.setitem(promotion_gate.CHECKS, "slice", lambda case: [])
    assert court.refusals(court.judge(court.fit(num_leaves=18)))["slice"] == "unknown"


def test_refused_when_a_family_of_evidence_is_missing(court, monkeypatch):
    run_gate = promotion_gate.run_gate
    monkeypatch.setattr(
        promotion_gate,
        "run_gate",
        lambda context: [part for part in run_gate(context) if part.family != "calibration"],
    )
    decision = court.judge(court.fit(num_leaves=19))
    assert "calibration: no verdict is recorded." in decision.reasons


def test_refused_when_its_file_was_changed_in_the_bucket(court):
    version = court.register(court.fit(num_leaves=20))
    overwrite(court.settings, version.metadata_key, b"{}")
    with pytest.raises(Exception, match="NS-LAKE-004"):
        assert court.case(version, None).trained
    decision = promotion.decide(court.settings, court.spec, version.version, RUN)
    assert court.refusals(decision)["provenance"] == "unknown"


@pytest.mark.parametrize("changes", [{"seed": 99}, {"num_boost_round": 59}])
def test_kept_in_the_shadow_when_equal(court, changes):
    champion = make_spec(
        training={
            "params": {"num_leaves": 5, "min_data_in_leaf": 50, "learning_rate": 0.15},
            **changes,
        }
    )
    model = court.fit(champion)
    decision = court.judge(replace(model, training={**model.training, "note": str(changes)}))
    assert (decision.verdict, court.refusals(decision)) == ("shadowed", {})
    assert promotion.champion_for(court.conn, court.spec.name, NIGHT.shift(1)).version == 1


def test_range_of_days_is_that_of_the_world(court):
    assert court.training_set.window == PartitionRange(
        Partition.parse("2020-01-01"), Partition.parse("2020-02-13")
    )
