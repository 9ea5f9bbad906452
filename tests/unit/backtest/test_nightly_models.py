"""Nightly models are trained in processes of their own, and survive a kill."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightshift.backtest.nightly_models import NightlyModels, train_as_of
from nightshift.contracts.model_spec import ModelSpec
from nightshift.settings import PROJECT_ROOT

FIRST_DAY, N_DAYS, ROWS_A_DAY = dt.date(2020, 1, 1), 44, 40
NIGHTS = [dt.date(2020, 2, day) for day in range(1, 9)]
SPEC = ModelSpec.model_validate(
    {
        "name": "parcel_late",
        "description": "Will this parcel be late?",
        "task": "binary",
        "owner": "parcels",
        "runbook": "docs/runbooks/README.md",
        "deadline": "04:00",
        "entity": {"name": "parcel", "key": "parcel_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "parcel",
        "features": {"numeric": ["wind", "weight"]},
        "label": {"relation": "fct_parcel_labels", "column": "is_late", "maturity_days": 1},
        "training": {
            "schedule": "nightly",
            "window_days": 30,
            "minimum_days": 20,
            "validation_days": 5,
            "holdout_days": 5,
            "num_boost_round": 20,
            "params": {"num_leaves": 7, "min_data_in_leaf": 20},
        },
        "promotion": {"metric": "roc_auc"},
        "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.3}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.1,
            "windows": {"n": 2, "m": 3},
        },
    }
)


def world() -> pa.Table:
    """Return parcels that are late when the wind blows."""
    random = np.random.default_rng(7)
    n = N_DAYS * ROWS_A_DAY
    wind, weight = random.normal(size=n), random.normal(size=n)
    days = [FIRST_DAY + dt.timedelta(days=i // ROWS_A_DAY) for i in range(n)]
    return pa.table(
        {
            "partition_date": days,
            "parcel_id": [f"{day}-{i:05d}" for i, day in enumerate(days)],
            "wind": wind,
            "weight": weight,
            "late_rate_7d": np.full(n, 0.3),
            "is_late": (wind + 0.3 * random.normal(size=n)) > 0.5,
        }
    )


def models(folder: Path) -> NightlyModels:
    return NightlyModels(SPEC, world(), folder)


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """Return text of the trees and time of writing of each model."""
    return {
        path.name: (path.read_text().split('"processor_seconds"')[0], path.stat().st_mtime_ns)
        for path in sorted(folder.glob("*.json"))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> NightlyModels:
    made = models(tmp_path_factory.mktemp("undisturbed"))
    assert sorted(made.train(NIGHTS, 2)) == NIGHTS
    return made


def test_model_is_that_of_its_night_whoever_trains_it(undisturbed: NightlyModels):
    direct = train_as_of(SPEC, world(), NIGHTS[1])
    kept = undisturbed.of(NIGHTS[1])
    assert kept.model.text == direct.served.text
    assert kept.evaluated.text == direct.evaluated.text
    assert kept.processor_seconds > 0
    night = dt.date(2020, 2, 3)
    assert (
        undisturbed.predictions(NIGHTS[1], night).score.tolist()
        == direct.served.predictions(undisturbed.rows_on(night)).score.tolist()
    )


def test_night_learns_only_from_mature_days(undisturbed: NightlyModels):
    """February 1 knows labels that are a day old: those of the partition of January 30."""
    days = undisturbed.window(NIGHTS[0]).column("partition_date").to_pylist()
    assert (min(days), max(days)) == (dt.date(2020, 1, 1), dt.date(2020, 1, 30))
    version = undisturbed.version_of(NIGHTS[0])
    # What serves is fitted on all mature days; what is evaluated never saw the hold-out.
    assert version.fit_end == dt.date(2020, 1, 30)
    assert version.as_evaluated.fit_end == dt.date(2020, 1, 24)


def test_nothing_is_trained_again_when_all_is_there(undisturbed: NightlyModels):
    before = files(undisturbed.folder)
    assert list(undisturbed.train(NIGHTS, 2)) == []
    assert files(undisturbed.folder) == before


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_models_and_leaves_no_process(
    undisturbed: NightlyModels, tmp_path: Path
):
    folder = tmp_path / "killed"
    code = (
        "from tests.unit.backtest.test_nightly_models import *\n"
        f"list(models(Path({str(folder)!r})).train(NIGHTS, 1))"
    )
    script = tmp_path / "train.py"
    script.write_text(
        f"if __name__ == '__main__':\n    from pathlib import Path\n    exec({code!r})\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT_ROOT}{os.pathsep}{PROJECT_ROOT / 'plugins'}",
    }
    killed = subprocess.Popen(
        [sys.executable, str(script)], env=environment, cwd=tmp_path, start_new_session=True
    )
    try:
        until(lambda: folder.is_dir() and any(folder.glob("*.json")))
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    until(lambda: not processes_of(killed.pid))
    first = files(folder)
    assert 0 < len(first) < len(NIGHTS)
    resumed = models(folder)
    again = list(resumed.train(NIGHTS, 2))
    assert len(again) == len(NIGHTS) - len(first)
    after = files(folder)
    assert {name: after[name] for name in first} == first
    assert {name: text for name, (text, _) in after.items()} == {
        name: text for name, (text, _) in files(undisturbed.folder).items()
    }


def until(is_true) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_of(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *rest = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(rest[2]) == session and state != "Z":
            found.append(int(path.parent.name))
    return found
