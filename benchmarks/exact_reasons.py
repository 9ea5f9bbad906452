"""This benchmark compares exact reasons and raw scores with LightGBM's, in rows a second.

The kernel runs against ``pred_contrib``, the engines against ``predict``.

``python -m benchmarks.exact_reasons [--trees 300] [--leaves 63] [--rounds 3]`` trains a model on
made-up rows with missing values, then runs each pair A B A B on the same threads
(``OMP_NUM_THREADS``, else all), and prints medians, ratio, largest difference, machine and command.
Prepared parts (imports, loading, compiling) are timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import Limited, Result

if TYPE_CHECKING:
    import lightgbm as lgb
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

LEAST_RATIO = 15
"""Rows a second of the kernel against ``pred_contrib``; the difference may be 1e-9 of the
score's scale.
"""
LARGEST_DIFFERENCE = 1e-9
N_NUMERIC, N_CATEGORICAL, N_LEVELS = 25, 5, 30
CONTRIB_ROWS, KERNEL_ROWS, PREDICT_ROWS, N_REASONS = 1_024, 16_384, 65_536, 3


def main() -> int:
    """Run the benchmark; return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=300)
    parser.add_argument("--leaves", type=int, default=63)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each side")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    matrix, booster = _make(given.trees, given.leaves)
    reasons, engines = (
        _reasons(booster, matrix, given.rounds),
        _engines(booster, matrix, given.rounds),
    )
    features = f"{N_NUMERIC} numeric and {N_CATEGORICAL} categorical features"
    result = Result(
        "exact_reasons",
        f"{given.trees} trees of {given.leaves} leaves, {features}, {given.rounds} rounds",
    )
    result.figures = {
        name: float(value)
        for name, value in {**reasons, **engines}.items()
        if not name.endswith("ratio")
    }
    result.limited = {
        "kernel / pred_contrib": Limited(reasons["ratio"], "at least", LEAST_RATIO),
        "difference / scale of the score": Limited(
            reasons["relative_difference"], "at most", LARGEST_DIFFERENCE
        ),
        "quickscorer / LightGBM.predict": Limited(engines["quickscorer_ratio"], "at least", 4),
        "engines that score a row otherwise": Limited(float(engines["n_unequal"]), "at most", 0),
    }
    result.bars = {
        "pred_contrib": reasons["pred_contrib_rows_per_second"],
        "nightshift, exact": reasons["kernel_rows_per_second"],
    }
    result.unit = "rows explained a second"
    return result.tell(given.json)


def _make(n_trees: int, n_leaves: int) -> tuple[Matrix, lgb.Booster]:
    import lightgbm as lgb
    import numpy as np

    dice = np.random.default_rng(1)
    matrix = dice.normal(size=(PREDICT_ROWS, N_NUMERIC + N_CATEGORICAL))
    matrix[:, N_NUMERIC:] = dice.integers(0, N_LEVELS, (len(matrix), N_CATEGORICAL))
    matrix[dice.random(matrix.shape) < 0.05] = np.nan
    known = np.nan_to_num(matrix)
    signal = known[:, :4].sum(axis=1) + known[:, 5] * known[:, 6] + known[:, N_NUMERIC] % 3
    label = (signal + dice.normal(size=len(matrix)) > 1).astype(float)
    params = {
        "objective": "binary",
        "num_leaves": n_leaves,
        "verbosity": -1,
        "deterministic": True,
        "force_col_wise": True,
        "seed": 1,
    }
    data = lgb.Dataset(
        matrix, label, categorical_feature=list(range(N_NUMERIC, N_NUMERIC + N_CATEGORICAL))
    )
    return matrix, lgb.train(params, data, n_trees)


def _reasons(booster: lgb.Booster, matrix: Matrix, rounds: int) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    from nightshift.models.booster import contributions
    from nightshift.models.model_format.reader import read_model
    from nightshift.models.shapley.shap_values import shapley_kernel
    from nightshift.scoring.reasons import top_reasons

    trees = read_model(booster.model_to_string())
    explain, forest_seconds = _timed(lambda: shapley_kernel(trees))
    _, first_seconds = _timed(lambda: explain(matrix[:10]))
    rows, names = matrix[:KERNEL_ROWS], booster.feature_name()
    table = pa.table({name: rows[:, position] for position, name in enumerate(names)})
    ours: Callable[[], Any] = partial(explain, rows)
    peer, kernel = _side_by_side(
        (partial(contributions, booster, matrix[:CONTRIB_ROWS]), ours), rounds
    )
    added = ours()
    _, json_seconds = _timed(lambda: top_reasons(added.copy(), names, table, N_REASONS))
    raw = booster.predict(matrix[:CONTRIB_ROWS], raw_score=True)
    difference = np.abs(
        contributions(booster, matrix[:CONTRIB_ROWS])[:, :-1] - added[:CONTRIB_ROWS]
    ).max()
    return {
        "pred_contrib_rows_per_second": round(CONTRIB_ROWS / peer),
        "kernel_rows_per_second": round(KERNEL_ROWS / kernel),
        "ratio": (KERNEL_ROWS / kernel) / (CONTRIB_ROWS / peer),
        "relative_difference": float(difference / np.abs(raw).max()),
        "top_reasons_rows_per_second": round(KERNEL_ROWS / json_seconds),
        "forest_seconds": forest_seconds,
        "first_call_seconds": first_seconds,
    }


def _engines(booster: lgb.Booster, matrix: Matrix, rounds: int) -> dict[str, Any]:
    from nightshift.models.booster import predict_raw
    from nightshift.models.engines.quickscorer import QuickScorer
    from nightshift.models.model_format.reader import read_model

    trees = read_model(booster.model_to_string())
    quick, load_seconds = _timed(lambda: QuickScorer(trees))
    ways = (partial(predict_raw, booster, matrix), partial(quick.raw, matrix))
    quick.raw(matrix[:1])  # reads the machine code, or makes it
    reference, by_quick = _side_by_side(ways, rounds)
    expected, *further_results = (way().tobytes() for way in ways)
    return {
        "lightgbm_rows_per_second": round(len(matrix) / reference),
        "quickscorer_rows_per_second": round(len(matrix) / by_quick),
        "quickscorer_ratio": reference / by_quick,
        "n_unequal": sum(other != expected for other in further_results),
        "load_seconds": load_seconds,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _side_by_side(works: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each, run A B A B after one round that does not count."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, taken in zip(works, seconds, strict=True):
            taken.append(_timed(work)[1])
    return [statistics.median(taken[1:]) for taken in seconds]


if __name__ == "__main__":
    sys.exit(main())
