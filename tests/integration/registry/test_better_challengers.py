"""Challengers that must be promoted, their records, and the refresh of an old champion."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from pydantic import SecretStr
from tests.integration.registry.conftest import NIGHT, RUN, make_spec
from tests.raw_bucket import overwrite

from nightshift.cli.models import evidence
from nightshift.errors import ObjectStoreError
from nightshift.registry.champions import champion_for
from nightshift.registry.evidence import EvidenceError, NoEvidenceError, verify_chain
from nightshift.registry.promotion import decide
from nightshift.registry.promotion_gate import CHECKS, conclude, failures, run_gate
from nightshift.registry.streams.members import TRAINED
from nightshift.registry.streams.nights import read_evidence
from nightshift.warehouse.control_tables.retrain_requests import open_request, open_requests

pytestmark = [pytest.mark.integration, pytest.mark.mlts("infra-4")]

PROVED = NIGHT.shift(24)
"""The night that knows the labels of 22 nights after ``NIGHT``."""


@pytest.fixture(scope="module")
def decided(empty_court):
    """Return a court with a decent champion, a better one proved by its stream, and an equal one.

    Each is in the model's chain.
    """
    court = empty_court(make_spec())
    weak = court.fit(make_spec(training={"num_boost_round": 8}), num_leaves=5)
    first = court.judge(weak)
    in_shadow = court.judge(court.fit())
    court.record_nights(np.random.default_rng(4).normal(0.02, 0.014, 22), champion=1)
    open_request(court.conn, court.spec.name, PROVED, ["drift"], {}, RUN)
    proved = decide(court.settings, court.spec, in_shadow.version, RUN, PROVED)
    return court, [first, in_shadow, proved, court.judge(court.fit(num_leaves=8), on=PROVED)]


def test_better_challenger_is_promoted_when_its_stream_has_proved_it_and_an_equal_one_is_not(
    decided,
):
    court, decisions = decided
    verdicts = [decision.verdict for decision in decisions]
    assert verdicts == ["first", "shadowed", "promoted", "shadowed"]
    assert court.refusals(decisions[3]) == {}
    assert decisions[1].numbers["criteria"]["superiority"] == "unproven"
    assert champion_for(court.conn, court.spec.name, PROVED).version == 1
    assert champion_for(court.conn, court.spec.name, PROVED.shift(1)).version == 2


def test_request_to_retrain_stays_open_when_an_older_challenger_is_decided_about(decided):
    court, _ = decided
    assert len(open_requests(court.conn, court.spec.name, PROVED)) == 1


def test_decision_is_kept_when_the_night_that_proved_it_is_rerun(decided):
    court, decisions = decided
    again = decide(court.settings, court.spec, decisions[2].version, RUN, PROVED.shift(3))
    assert again == decisions[2]
    # What stays in the shadow is decided about every night, and recorded once.
    still = decide(court.settings, court.spec, decisions[3].version, RUN, PROVED.shift(1))
    assert still == decisions[3]


def test_a_stream_that_beat_the_champion_before_does_not_remove_the_one_that_serves(decided):
    court, _ = decided
    # All nights are of version 1; a refresh by version 2 would have left the test running.
    evening = PROVED.shift(-1)
    evidence = read_evidence(court.conn, court.spec, TRAINED, evening, champion=2)
    assert (evidence.champion_nights, evidence.result.n_nights) == (0, 21)
    assert evidence.result.e_value > 20
    # The proof itself restarts it.
    anew = read_evidence(court.conn, court.spec, TRAINED, PROVED, champion=2)
    assert (anew.result.n_nights, anew.since) == (0, PROVED.shift(1).day)


def test_record_has_every_criterion_with_limit_number_interval_and_verdict(decided):
    court, decisions = decided
    record = court.record(decisions[2])
    assert {part["name"].partition("[")[0] for part in record["criteria"]} == set(CHECKS)
    by_name = {part["name"]: part for part in record["criteria"]}
    not_passed = {name for name, part in by_name.items() if part["verdict"] == "unproven"}
    assert not_passed == {"refresh"}
    assert {"non_inferiority", "non_inferiority[log_loss]"} <= set(by_name)
    gain = by_name["non_inferiority[log_loss]"]
    assert gain["interval"][0] < gain["number"] < gain["interval"][1]
    superiority = by_name["superiority"]
    assert superiority["number"] >= superiority["limit"] == pytest.approx(20)
    assert superiority["facts"]["n_nights"] == superiority["facts"]["champion_nights"] == 22
    assert 0 < superiority["facts"]["gain_low"] < superiority["facts"]["mean_gain"]
    assert (record["version"], record["champion"]["version"], record["verdict"]) == (
        2,
        1,
        "promoted",
    )
    assert record["limits"]["metric"] == "roc_auc"
    assert record["rows"] == {"first": "2020-02-04", "last": "2020-02-13", "n_rows": 3000}


def test_records_are_chained_from_the_first_on(decided):
    court, decisions = decided
    rows = court.conn.execute(
        "select evidence_key, evidence_sha256 from ml.promotions order by promotion_id"
    ).fetchall()
    records = [json.loads(court.store.get(key)) for key, _ in rows]
    assert [record["previous"] for record in records] == [None, *(digest for _, digest in rows[:3])]
    assert verify_chain(court.settings, court.store, court.conn, court.spec.name) == len(decisions)


def test_page_is_whole_without_network_or_script(decided):
    court, decisions = decided
    key = court.record(decisions[2])["page"]
    page = court.store.get(key)
    assert key.endswith(f"{sha256(page).hexdigest()}.html")
    text = page.decode()
    assert text.count("<svg") == 3
    assert "<script" not in text
    assert "src=" not in text.replace("default-src", "").replace("style-src", "").replace(
        "img-src", ""
    )


def test_command_shows_and_fetches_a_decision_when_the_chain_verifies(
    decided, tmp_path, monkeypatch, capsys
):
    court, decisions = decided
    monkeypatch.setattr(evidence, "load_settings", lambda: court.settings)
    evidence.evidence(court.spec.name, into=tmp_path)
    evidence.evidence(court.spec.name, version=1, into=tmp_path)
    said = capsys.readouterr().out
    assert "parcel_late: 4 records verified" in said
    assert "Version 3 was shadowed: Sound, and not proved better yet" in said
    assert "Version 1 was first" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"parcel_late-v{n}.{kind}" for n in (1, 3) for kind in ("html", "json")
    ]
    record = json.loads((tmp_path / "parcel_late-v3.json").read_text())
    assert record == court.record(decisions[3])
    assert sha256((tmp_path / "parcel_late-v3.html").read_bytes()).hexdigest() in record["page"]


def test_command_names_what_is_missing_when_a_version_was_not_judged(
    decided, tmp_path, monkeypatch
):
    court, _ = decided
    monkeypatch.setattr(evidence, "load_settings", lambda: court.settings)
    with pytest.raises(NoEvidenceError, match="version 99 of parcel_late"):
        evidence.evidence(court.spec.name, version=99, into=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_chain_does_not_verify_when_a_record_was_changed(decided):
    court, _ = decided
    key = court.conn.execute(
        "select evidence_key from ml.promotions order by promotion_id limit 1"
    ).fetchone()[0]
    whole = court.store.get(key)
    try:
        overwrite(court.settings, key, whole.replace(b'"first"', b'"other"'))
        with pytest.raises(ObjectStoreError):
            verify_chain(court.settings, court.store, court.conn, court.spec.name)
    finally:
        overwrite(court.settings, key, whole)


def test_old_champion_is_refreshed_by_one_that_is_not_worse_and_nothing_is_called_proved(decided):
    court, _ = decided
    version = court.register(court.fit(num_leaves=6))
    weak = champion_for(court.conn, court.spec.name, NIGHT.shift(1))
    old = replace(weak, partition_date=NIGHT.shift(-28).day)
    assert verdict_of(court.case(version, old)) == "refreshed"
    young = replace(weak, partition_date=NIGHT.shift(-27).day)
    assert verdict_of(court.case(version, young)) == "shadowed"


def test_old_champion_stays_when_the_challenger_is_worse_by_point_estimate(decided):
    court, _ = decided
    good = champion_for(court.conn, court.spec.name, PROVED.shift(1))
    old = replace(good, partition_date=NIGHT.shift(-99).day)
    worse = court.register(court.fit(make_spec(training={"num_boost_round": 12}), num_leaves=4))
    context = court.case(worse, old)
    assert context.gain("champion", metric="log_loss").value < 0
    assert verdict_of(context) != "refreshed"


def test_old_champion_stays_when_the_challenger_is_itself(decided):
    court, _ = decided
    champion = champion_for(court.conn, court.spec.name, PROVED.shift(1))
    old = replace(champion, partition_date=NIGHT.shift(-99).day)
    assert verdict_of(court.case(champion, old)) == "shadowed"


def verdict_of(context):
    criteria = run_gate(context)
    return conclude(context, criteria, failures(criteria))[0]


def test_signature_is_kept_and_verified_when_a_key_is_set(empty_court):
    court = empty_court(make_spec())
    court.settings = court.settings.model_copy(update={"evidence_key": SecretStr("correct horse")})
    court.judge(court.fit())
    assert verify_chain(court.settings, court.store, court.conn, court.spec.name) == 1
    other = court.settings.model_copy(update={"evidence_key": SecretStr("battery staple")})
    with pytest.raises(EvidenceError, match="NS-REGISTRY-004"):
        verify_chain(other, court.store, court.conn, court.spec.name)
