"""Challengers that must be promoted, their records, and the retirement of a stale champion."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from pydantic import SecretStr
from tests.integration.registry.conftest import NIGHT, make_spec
from tests.raw_bucket import overwrite

from nightshift.cli.models import evidence
from nightshift.errors import ObjectStoreError
from nightshift.registry.champions import champion_for
from nightshift.registry.evidence import EvidenceError, NoEvidenceError, verify_chain
from nightshift.registry.promotion_gate import CHECKS, failures, run_gate

pytestmark = [pytest.mark.integration, pytest.mark.mlts("infra-4")]


@pytest.fixture(scope="module")
def decided(empty_court):
    """Return a court with a decent champion, a better one after it, and one refused as equal.

    Each is in the model's chain.
    """
    court = empty_court(make_spec())
    weak = court.fit(make_spec(training={"num_boost_round": 8}), num_leaves=5)
    return court, [
        court.judge(weak),
        court.judge(court.fit()),
        court.judge(court.fit(num_leaves=8)),
    ]


def test_better_challenger_is_promoted_and_an_equal_one_is_not(decided):
    court, decisions = decided
    assert [decision.verdict for decision in decisions] == ["first", "promoted", "refused"]
    assert set(court.refusals(decisions[2])) == {"superiority"}
    assert champion_for(court.conn, court.spec.name, NIGHT.shift(1)).version == 2


def test_record_has_every_criterion_with_limit_number_interval_and_verdict(decided):
    court, decisions = decided
    record = court.record(decisions[1])
    assert {part["name"].partition("[")[0] for part in record["criteria"]} == set(CHECKS)
    assert {part["verdict"] for part in record["criteria"]} <= {"passed", "not_applicable"}
    superiority = next(part for part in record["criteria"] if part["name"] == "superiority")
    assert superiority["interval"][0] < superiority["number"] < superiority["interval"][1]
    assert superiority["facts"]["probability"] >= superiority["facts"]["needed"] == 0.95
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
    assert [record["previous"] for record in records] == [None, rows[0][1], rows[1][1]]
    assert verify_chain(court.settings, court.store, court.conn, court.spec.name) == len(decisions)


def test_page_is_whole_without_network_or_script(decided):
    court, decisions = decided
    key = court.record(decisions[1])["page"]
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
    assert "parcel_late: 3 records verified" in said
    assert "Version 3 was refused: superiority" in said
    assert "Version 1 was first" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"parcel_late-v{n}.{kind}" for n in (1, 3) for kind in ("html", "json")
    ]
    record = json.loads((tmp_path / "parcel_late-v3.json").read_text())
    assert record == court.record(decisions[2])
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


def test_stale_champion_is_replaced_by_one_that_is_not_inferior(decided):
    court, _ = decided
    version = court.register(court.fit(num_leaves=6))
    old = replace(court.case(version, None).challenger, partition_date=NIGHT.shift(-28).day)
    champion = replace(
        old,
        **{
            name: getattr(champion_for(court.conn, court.spec.name, NIGHT.shift(1)), name)
            for name in _FILES
        },
    )
    assert failures(run_gate(court.case(version, champion))) == []
    young = replace(champion, partition_date=NIGHT.shift(-27).day)
    assert [
        reason.partition(":")[0] for reason in failures(run_gate(court.case(version, young)))
    ] == ["superiority"]


def test_stale_champion_stays_when_the_challenger_is_itself(decided):
    court, _ = decided
    champion = champion_for(court.conn, court.spec.name, NIGHT.shift(1))
    old = replace(champion, partition_date=NIGHT.shift(-99).day)
    assert [
        reason.partition(":")[0] for reason in failures(run_gate(court.case(champion, old)))
    ] == ["superiority"]


def test_signature_is_kept_and_verified_when_a_key_is_set(empty_court):
    court = empty_court(make_spec())
    court.settings = court.settings.model_copy(update={"evidence_key": SecretStr("correct horse")})
    court.judge(court.fit())
    assert verify_chain(court.settings, court.store, court.conn, court.spec.name) == 1
    other = court.settings.model_copy(update={"evidence_key": SecretStr("battery staple")})
    with pytest.raises(EvidenceError, match="NS-REGISTRY-004"):
        verify_chain(other, court.store, court.conn, court.spec.name)


_FILES = (
    "version",
    "digest",
    "model_key",
    "model_sha256",
    "model_bytes",
    "metadata_key",
    "metadata_sha256",
    "metadata_bytes",
)
