"""How much of a prediction do three reasons tell: single features, and groups by declared cause?

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.grouped_reasons [--rows FOLDER] [--json FILE]

Both models of flights are trained as of the last night of several months of 2013, and explain the
flights of the month after: exact Shapley values of the model that would have served. The
figure is the share of the sum of absolute effects that the three largest have, as in the
independent recomputation that this is compared with. Features within a group pull in both
directions, so it is also shown which share of the features' own absolute effects lies in the three
groups.

Without a folder of ``<model>.parquet`` (labelled feature rows), own servers are started and the
year is replayed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.result import Limited, Result
from pyarrow import parquet

from nightshift.backtest.nightly_models import without_slices
from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.models.shapley.shap_values import Contributions
from nightshift.scoring.reasons import columns_by_cause
from nightshift.settings import PROJECT_ROOT
from nightshift.training.holdout import fit_and_evaluate
from nightshift.training.splits import rows_between, rows_of, split_window
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Matrix

MODELS = ("flight_delayed", "arrival_delay_minutes")
TRAINED_ON = ("2013-04-29", "2013-08-30", "2013-10-30")
EXPLAINED_DAYS = 30
N_REASONS = 3
MINIMUM_SHARE = 0.70
BEFORE = {"three single features of 2,000 rows in May": 0.24}
"""By an independent recomputation, before features were grouped."""


def main() -> int:
    """Run the benchmark; return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="folder of labelled feature rows by model")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    specs = [load_spec(PROJECT_ROOT / "dags" / "models", name) for name in MODELS]
    if given.rows:
        tables = {name: parquet.read_table(given.rows / f"{name}.parquet") for name in MODELS}
    else:
        tables = replayed_year(specs)
    result = Result("grouped_reasons", f"{len(MODELS)} models, {len(TRAINED_ON)} trainings each")
    minimum = 1.0
    for spec in specs:
        for trained_on in TRAINED_ON:
            shares = explained_shares(spec, *explain(spec, tables[spec.name], trained_on))
            result.figures |= {
                f"{spec.name} {trained_on}: {name}": round(share, 3)
                for name, share in shares.items()
            }
            minimum = min(minimum, shares["three groups"])
    result.figures |= BEFORE
    limit = Limited(round(minimum, 3), "at least", MINIMUM_SHARE, "of the effect")
    result.limited["three groups tell, in the worst month"] = limit
    return result.tell(given.json)


def replayed_year(specs: list[ModelSpec]) -> dict[str, pa.Table]:
    """Return the labelled rows of 2013 by model, replayed into servers of their own."""
    from examples.flights.backtest import YEAR, load_year
    from examples.flights.stopwatch import Stopwatch

    from nightshift.backtest.walk_forward import labelled_rows
    from nightshift.cli.services.migrate import set_up
    from nightshift.contracts.run import RunContext
    from nightshift.settings import load_admin_settings
    from nightshift_local.local_env import LocalServers

    run = RunContext("benchmark")
    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ.update(servers.env)
        settings = load_admin_settings()
        set_up(settings)
        load_year(settings, run, Stopwatch())
        return {spec.name: labelled_rows(settings, spec, YEAR.last, run) for spec in specs}


def explain(spec: ModelSpec, rows: pa.Table, trained_on: str) -> tuple[list[str], Matrix]:
    """Train as of a night; return feature names and the contributions of the month after."""
    partition = Partition.parse(trained_on)
    window = mature_window(spec, partition)
    split = split_window(window, spec.training)
    model = fit_and_evaluate(without_slices(spec), rows_of(rows, window), split, "").served
    later = rows_between(rows, partition.shift(1).day, partition.shift(EXPLAINED_DAYS).day)
    return model.signature.names, Contributions(model).of(model.encode(later))


def explained_shares(spec: ModelSpec, names: list[str], added: Matrix) -> dict[str, float]:
    """Return the shares of absolute effects that three reasons tell.

    Args:
        spec: Its causes.
        names: The k features.
        added: What each feature adds to the raw score; shape (n, k).
    """
    groups = columns_by_cause(names, spec.analytics.causes).values()
    sums = np.stack([added[:, columns].sum(axis=1) for columns in groups], axis=1)
    strength = np.stack([np.abs(added[:, columns]).sum(axis=1) for columns in groups], axis=1)
    strongest = np.argsort(-np.abs(sums), axis=1)[:, :N_REASONS]
    within = np.take_along_axis(strength, strongest, axis=1)
    return {
        "three features": _share_of_largest(np.abs(added)),
        "three groups": _share_of_largest(np.abs(sums)),
        "features of the three groups": float(within.sum() / strength.sum()),
    }


def _share_of_largest(effects: Matrix) -> float:
    largest = np.sort(effects, axis=1)[:, -N_REASONS:]
    return float(largest.sum() / effects.sum())


if __name__ == "__main__":
    sys.exit(main())
