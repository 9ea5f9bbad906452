"""Search LightGBM's parameters on rolling blocks of the days before the validation days.

No day that chooses or evaluates is looked at. A search is a function of rows, spec and seed, so a
rerun of a training set finds the same parameters and grows the same trees. Source: Akiba et al.
(2019), Optuna; docs/adr/0044-recipes.md.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nightshift.models.signature import numbers
from nightshift.training.recipe.members import NO_PATHS, FitPaths, FitRows, watched_trees
from nightshift.training.recipe.out_of_fold import common_rounds, rolling_blocks
from nightshift.training.splits import rows_between

if TYPE_CHECKING:
    import optuna
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.training_spec import SearchRange

logger = logging.getLogger(__name__)


def searched(
    spec: ModelSpec, rows: pa.Table, paths: FitPaths = NO_PATHS
) -> tuple[ModelSpec, dict[str, Any]]:
    """Return the spec with the parameters that were chosen, and the record of the search.

    The declared parameters are the first trial, so what is chosen is never worse on these blocks.

    Args:
        spec: Its ``training.search`` says what is tried; without one nothing changes.
        rows: The days before the validation days, in their total order.
        paths: Rows that are binned already.
    """
    search = spec.training.search
    if search is None:
        return spec, {}
    import optuna

    # A killed search begins anew: checkpoints of other parameters must not be continued.
    paths = replace(paths, checkpoints=None)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    blocks = _blocks(spec, rows)
    sampler = optuna.samplers.TPESampler(seed=spec.training.seed % 2**32)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    # The declared values come first, as far as they lie within the ranges.
    declared = {}
    for name, bounds in search.parameters.items():
        value = spec.training.params.get(name)
        if value is not None and bounds.low <= float(value) <= bounds.high:
            declared[name] = value
    if len(declared) == len(search.parameters):
        study.enqueue_trial(declared)

    def loss_of(trial: optuna.Trial) -> float:
        chosen = {name: _suggest(trial, name, part) for name, part in search.parameters.items()}
        return _loss(_with_params(spec, chosen), blocks, paths)

    # One trial after the other: with several at once the sampler would see them in any order.
    study.optimize(loss_of, n_trials=search.trials, n_jobs=1)
    record = {
        "trials": search.trials,
        "loss": study.best_value,
        "params": study.best_params,
    }
    logger.info("The search of %s chosen %s.", spec.name, record)
    return _with_params(spec, study.best_params), {"search": record}


def _blocks(spec: ModelSpec, rows: pa.Table) -> list[tuple[pa.Table, pa.Table]]:
    """Return rolling blocks of the last days of the rows: rows to fit on, and the block."""
    search = spec.training.search
    assert search is not None  # noqa: S101 - the caller has asked
    days = rows.column("partition_date").unique().to_pylist()
    # At least half of the days stay before the first block.
    n_days = min(spec.training.validation_days, len(days) // 2)
    earlier = days[: -n_days - spec.training.gap_days]
    before = rows_between(rows, earlier[0], earlier[-1])
    later = rows_between(rows, days[-n_days], days[-1])
    rolled = rolling_blocks(before, later, search.folds, spec.training.gap_days)
    # A block, or what comes before it, with one label cannot tell parameters apart.
    usable = []
    for fit_rows, block in rolled:
        label = numbers(fit_rows, spec.label.column)
        if not spec.task.has_probability or label.min() < label.max():
            usable.append((fit_rows, block))
    return usable


def _loss(spec: ModelSpec, blocks: list[tuple[pa.Table, pa.Table]], paths: FitPaths) -> float:
    """Return the mean loss of the blocks at their best common round."""
    losses = []
    n_rows = []
    for before, block in blocks:
        fit = watched_trees(FitRows(spec, before), block, paths, "search")
        losses.append(fit.losses)
        n_rows.append(block.num_rows)
    return common_rounds(losses, n_rows)[1]


def _suggest(trial: optuna.Trial, name: str, bounds: SearchRange) -> int | float:
    # Ranges over an order of magnitude are searched by their logarithm.
    if bounds.is_whole:
        return trial.suggest_int(name, int(bounds.low), int(bounds.high), log=bounds.is_wide)
    return trial.suggest_float(name, bounds.low, bounds.high, log=bounds.is_wide)


def _with_params(spec: ModelSpec, chosen: dict[str, Any]) -> ModelSpec:
    params = {**spec.training.params, **chosen}
    training = spec.training.model_copy(update={"params": params})
    return spec.model_copy(update={"training": training})
