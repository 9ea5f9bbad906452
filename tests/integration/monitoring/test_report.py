from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from nightshift.models.signature import Signature
from nightshift.monitoring import report as module
from nightshift.monitoring.report import ReportError, ShownDrift, draw_sample, make_report

SIGNATURE = Signature(("wind",), (("carrier", ("A", "B")),))


def rows(n: int, shift: float = 0.0) -> pa.Table:
    random = np.random.default_rng(n)
    carriers = random.choice(["A", "B", None], n)
    return pa.table(
        {"wind": random.normal(size=n) + shift, "carrier": pa.array(carriers.tolist(), pa.string())}
    )


def sample(table: pa.Table, n_rows: int = 300) -> pa.Table:
    return draw_sample(table, np.arange(table.num_rows, dtype=float), SIGNATURE, n_rows, 7)


def test_sample_is_bounded_and_the_same_when_seed_is_the_same() -> None:
    first, second = sample(rows(500)), sample(rows(500))
    assert first.num_rows == 300
    assert all(
        np.array_equal(first[name], second[name], equal_nan=True) for name in first.column_names
    )
    assert sorted(first.column_names) == ["carrier", "score", "wind"]


def test_sample_holds_all_rows_when_there_are_fewer() -> None:
    assert sample(rows(50)).column("score").to_pylist() == list(map(float, range(50)))


SHOWN = ShownDrift({"wind": 4.2, "carrier": 0.01, "score": 0.3}, ["wind"], 0.3, ["carrier"])


@pytest.mark.slow
def test_report_shows_the_numbers_of_the_verdict_and_not_those_of_the_sample() -> None:
    made = make_report(sample(rows(500)), sample(rows(400)), SHOWN)
    found = {m["config"].get("column"): m["value"] for m in json.loads(made.json)["metrics"]}
    assert {name: found[name] for name in SHOWN.distances} == SHOWN.distances
    assert found[None] == {"count": 1.0, "share": 0.5}
    assert b"<html" in made.html[:2000].lower()


def test_report_fails_in_time_when_its_process_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_SECONDS", 0.01)
    with pytest.raises(ReportError, match="not finished in time"):
        make_report(sample(rows(50)), sample(rows(50)), SHOWN)


def test_report_names_the_reason_when_its_process_fails() -> None:
    with pytest.raises(ReportError, match="KeyError") as caught:
        make_report(sample(rows(50)), sample(rows(50)), ShownDrift({"unknown": 1.0}, [], 0.3, []))
    assert caught.value.code == "NS-MONITOR-002"
