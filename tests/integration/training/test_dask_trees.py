"""Trees from Dask workers: the same rule for the best round and the same type of model.

Whatever fails in a cluster is one error.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pytest

from nightshift.models.booster import load_booster, predict_raw
from nightshift.training.trees import dask_trees
from nightshift.training.trees.boosting import FitPlan, fit_trees
from nightshift.training.trees.dask_trees import DaskError, fit_trees_on_dask, losses_of

NAMES = ["a", "b", "kind"]
PLAN = FitPlan(
    objective="binary",
    params={"num_leaves": 7, "learning_rate": 0.2, "min_data_in_leaf": 20},
    seed=7,
    n_rounds=60,
    patience_rounds=8,
    categorical_positions=[2],
    names=NAMES,
    n_threads=2,
    segment_rounds=20,
)


@pytest.fixture(scope="module")
def parts():
    dice = np.random.default_rng(5)
    matrix = dice.normal(size=(4000, 3))
    matrix[:, 2] = dice.integers(0, 5, 4000)
    matrix[::9, 1] = np.nan
    label = (matrix[:, 0] + (matrix[:, 2] == 2) + dice.normal(size=4000) > 0).astype(float)
    return (table_of(matrix[:3000]), label[:3000]), (matrix[3000:], label[3000:])


def table_of(matrix):
    return pa.table({name: pa.array(matrix[:, place]) for place, name in enumerate(NAMES)})


def loss(fit, validation):
    raw, label = predict_raw(load_booster(fit.text, NAMES), validation[0]), validation[1]
    return float(np.mean(np.logaddexp(0, -np.where(label > 0, raw, -raw))))


@pytest.mark.parametrize(
    ("objective", "params"),
    [
        ("binary", {}),
        ("regression", {}),
        ("regression_l1", {}),
        ("huber", {}),
        ("huber", {"alpha": 0.3}),
        ("fair", {}),
        ("quantile", {"alpha": 0.2}),
        ("mape", {}),
    ],
)
def test_losses_are_those_that_lightgbm_measures(parts, objective, params):
    (rows, label), (matrix, held) = parts
    shift = 0 if objective == "binary" else 3
    plan = replace(
        PLAN,
        objective=objective,
        params={**PLAN.params, **params},
        n_rounds=25,
        patience_rounds=25,
        segment_rounds=25,
    )
    fit = fit_trees((rows, label + shift), (matrix, held + shift), plan)

    found = losses_of(fit.text, plan, (matrix, held + shift))

    assert found == pytest.approx(fit.losses[: fit.best_round], rel=1e-5)


@pytest.mark.timeout(180)
def test_two_workers_grow_trees_as_good_as_one_machine_and_stop_by_the_same_rule(parts):
    local = fit_trees(*parts, PLAN)

    fit = fit_trees_on_dask(*parts, PLAN, "")

    assert fit.best_round == load_booster(fit.text, NAMES).num_trees()
    assert len(fit.losses) == fit.best_round + PLAN.patience_rounds
    assert loss(fit, parts[1]) == pytest.approx(min(fit.losses), rel=1e-5)
    assert loss(fit, parts[1]) == pytest.approx(loss(local, parts[1]), rel=0.02)
    assert "127.0.0.1" not in fit.text


def test_the_error_says_where_to_look_when_there_is_no_scheduler(parts, monkeypatch):
    monkeypatch.setattr(dask_trees, "CONNECT_SECONDS", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DaskError, match="NIGHTSHIFT_DASK_SCHEDULER"):
            fit_trees_on_dask(*parts, PLAN, f"tcp://127.0.0.1:{closed.getsockname()[1]}")


@pytest.mark.timeout(300)
def test_a_lost_worker_fails_the_fit_and_leaves_nothing_running(parts, monkeypatch):
    import psutil

    monkeypatch.setattr(dask_trees, "NETWORK_MINUTES", 1)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    fit = lgb.DaskLGBMClassifier.fit

    def fit_without_worker(model, *args, **how):
        _, lost = model.client.run(os.getpid).values()
        psutil.Process(lost).kill()
        return fit(model, *args, **how)

    monkeypatch.setattr(lgb.DaskLGBMClassifier, "fit", fit_without_worker)
    with pytest.raises(DaskError, match="not grown"):
        fit_trees_on_dask(*parts, PLAN, "")
    left = {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != "zombie"
    } - before
    assert {
        pid for pid in left if "resource_tracker" not in " ".join(psutil.Process(pid).cmdline())
    } == set()


def test_an_objective_without_a_known_loss_is_refused(parts):
    with pytest.raises(DaskError, match=r"training\.engine: local"):
        fit_trees_on_dask(*parts, replace(PLAN, objective="poisson"), "")


PROGRAM = """
if __name__ != "__main__":
    raise RuntimeError("a worker has imported the program")
import sys
from nightshift.training.trees import dask_trees
with dask_trees._cluster("", 2) as client:
    client.wait_for_workers(2, timeout=30)
    assert client.submit(sum, [1, 2]).result() == 3
assert "dask_trees" in vars(sys.modules["__main__"])
print("workers came")
"""


def test_workers_do_not_import_the_program_that_starts_them(tmp_path):
    """That of an Airflow task fails there: it looks for a database."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, timeout=120
    )

    assert "workers came" in done.stdout, done.stderr[-2_000:]
