"""How fast should the level of each night follow? Settings of ``recipe.level``, month by month.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.level_settings MODEL [--rows FOLDER]
        [--last 2013-12] [--tolerance 0.001] [--keep 0.03]

A model of flights is trained once before each month of 2013 from March on, and its scores of the
month are moved by each setting, by the functions that scoring calls. A month is then measured: loss
(log loss, or root mean squared error), error (calibration error, or bias), and the largest error
that 95 % of perfect forecasts stay below.

Which setting is best is asked as somebody would have to in the middle of the year: on the first
months it is the one with the smallest mean error whose mean loss is at most ``--tolerance`` above
the default's, in proportion to it; the later months judge it.

Without a folder of ``<model>.parquet`` (labelled feature rows), own servers are started and the
year is replayed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.grouped_reasons import replayed_year
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from nightshift.backtest.comparison import Comparison
from nightshift.backtest.nightly_models import train_as_of
from nightshift.contracts.metrics import Task
from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.scoring.level.replayed_levels import ReplayedLevels
from nightshift.settings import PROJECT_ROOT
from nightshift.training.splits import rows_between, split_window
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec

FIRST_MONTH = np.datetime64("2013-03")
DEFAULT = (14, None)
SETTINGS = [DEFAULT, *product((1, 3, 7), (None, 4, 7)), *((prior, None) for prior in (8, 10))]
"""``prior_nights`` and ``half_life_nights``."""
Setting = tuple[int, int | None]


@dataclass(frozen=True)
class MonthError:
    """One month by one setting.

    Attributes:
        loss: Log loss, or root mean squared error.
        error: Calibration error, or the bias without its sign.
        unavoidable: 95 % of perfect forecasts have a smaller error.
    """

    loss: float
    error: float
    unavoidable: float


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=Path, help="folder of labelled feature rows by model")
    parser.add_argument("--last", default="2013-12", help="last month")
    parser.add_argument("--tolerance", type=float, default=0.001, help="in the loss's unit")
    parser.add_argument("--keep", type=float, default=0.03, help="in the error's unit")
    given = parser.parse_args()
    spec = load_spec(PROJECT_ROOT / "dags" / "models", given.model)
    if given.rows:
        rows = parquet.read_table(given.rows / f"{spec.name}.parquet")
    else:
        rows = replayed_year([spec])[spec.name]
    measured: dict[Setting, list[MonthError]] = {setting: [] for setting in SETTINGS}
    months = np.arange(FIRST_MONTH, np.datetime64(given.last) + 1)
    console = Console()
    for month in months:
        for setting, error in month_errors(spec, rows, month):
            measured[setting].append(error)
        console.print(f"{month} is measured")
    console.print(table_of(months, measured))
    for n_known in range(3, len(months)):
        console.print(compared(measured, n_known, given.tolerance, given.keep))
    return 0


def month_errors(
    spec: ModelSpec, rows: pa.Table, month: np.datetime64
) -> Iterator[tuple[Setting, MonthError]]:
    """Train before a month, and yield what each setting makes of it."""
    # A partition predicts the day after it, and is scored by the version of the night before.
    first = Partition(month.astype("datetime64[D]").item()).shift(-1)
    last = Partition((month + 1).astype("datetime64[D]").item()).shift(-2)
    trained_on = first.shift(-1)
    split = split_window(mature_window(spec, trained_on), spec.training)
    model = train_as_of(spec, rows, trained_on.day).served
    levels = ReplayedLevels(spec, rows, model, split.holdout.last.day)
    current = rows_between(rows, first.day, last.day)
    comparison = Comparison.of(spec, current)
    loss = "log_loss" if spec.task is Task.BINARY else "rmse"
    for setting in SETTINGS:
        # The scores of the nights are shared by all settings.
        of_setting = replace(levels, spec=with_level(spec, setting))
        predicted = of_setting.predictions(current)
        noise = comparison.noise(predicted)
        assert noise is not None
        values = comparison.values(predicted, (loss,))
        limit = float(np.quantile(noise.errors, 0.95))
        yield setting, MonthError(float(values[loss] or 0.0), noise.measured, limit)


def with_level(spec: ModelSpec, setting: Setting) -> ModelSpec:
    """Return a spec whose level follows by a setting."""
    prior, half_life = setting
    changed = {"prior_nights": prior, "half_life_nights": half_life}
    level = spec.training.recipe.level.model_copy(update=changed)
    recipe = spec.training.recipe.model_copy(update={"level": level})
    training = spec.training.model_copy(update={"recipe": recipe})
    return spec.model_copy(update={"training": training})


def table_of(months: Sequence[np.datetime64], measured: dict[Setting, list[MonthError]]) -> Table:
    """Return one line per setting: mean loss against the default, and each month's error."""
    headers = ("prior nights", "half-life", "loss", "error", *map(str, months))
    table = Table(*headers)
    base = np.mean([month.loss for month in measured[DEFAULT]])
    for (prior, half_life), of_months in measured.items():
        loss = np.mean([month.loss for month in of_months]) - base
        error = np.mean([month.error for month in of_months])
        cells = [f"{month.error:.3g}" for month in of_months]
        table.add_row(str(prior), str(half_life or "-"), f"{loss:+.4f}", f"{error:.3g}", *cells)
    limits = [f"{month.unavoidable:.3g}" for month in measured[DEFAULT]]
    table.add_row("perfect forecast, 95 %", "", "", "", *limits)
    return table


def compared(
    measured: dict[Setting, list[MonthError]], n_known: int, tolerance: float, keep: float
) -> str:
    """Return what a choice on the first months is worth on the later ones."""
    losses = {key: np.array([month.loss for month in of]) for key, of in measured.items()}
    errors = {key: np.array([month.error for month in of]) for key, of in measured.items()}
    limit = losses[DEFAULT][:n_known].mean() + tolerance
    # The default can always be kept.
    allowed = [DEFAULT]
    for key in measured:
        is_close = losses[key][:n_known].mean() <= limit
        if is_close and errors[key][:n_known].max() <= keep:
            allowed.append(key)
    chosen = min(allowed, key=lambda key: errors[key][:n_known].mean())
    loss = (losses[chosen] - losses[DEFAULT])[n_known:].mean()
    before, after = errors[DEFAULT][n_known:].mean(), errors[chosen][n_known:].mean()
    return (
        f"chosen on {n_known} months: prior {chosen[0]}, half-life {chosen[1]};"
        f" later loss {loss:+.4f}, error {before:.3g} -> {after:.3g}"
    )


if __name__ == "__main__":
    sys.exit(main())
