"""Fit gradient-boosted trees, in segments that a killed fit can go on from.

A fit runs in segments of fixed length, each starting from the text of the one before and with
random streams of its own. A killed fit therefore goes on from its last segment to the very trees of
an undisturbed one. Source: docs/adr/0007-training-and-promotion.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift import sealed_file
from nightshift.failpoints import Failpoint, hit
from nightshift.models.booster import load_booster, portable

if TYPE_CHECKING:
    import lightgbm as lgb
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

SEGMENT_ROUNDS = 100
"""Trees between two checkpoints; part of what a fit is: another length gives other trees."""
_GROWS_ON = frozenset(
    {
        *(
            "learning_rate",
            "num_leaves",
            "max_depth",
            "min_data_in_leaf",
            "min_sum_hessian_in_leaf",
            "min_gain_to_split",
            "lambda_l1",
        ),
        *(
            "lambda_l2",
            "feature_fraction",
            "feature_fraction_bynode",
            "bagging_fraction",
            "bagging_freq",
            "max_bin",
        ),
        *(
            "alpha",
            "cat_smooth",
            "cat_l2",
            "max_cat_to_onehot",
            "min_data_per_group",
            "path_smooth",
            "min_data_in_bin",
        ),
    }
)
"""Parameters with which a booster that grows on is proved to give the trees of one that starts
from the text.
"""
_BINS_ON = frozenset({"max_bin", "min_data_in_bin", "min_data_in_leaf"})
"""Those of them that decide how values are binned, or whether a column is worth it."""


@dataclass(frozen=True)
class FitPlan:
    """What a fit does, apart from its rows.

    Attributes:
        objective: LightGBM's name of the loss.
        params: Free parameters of the spec.
        seed: Seed of every random choice.
        n_rounds: Upper limit of trees.
        patience_rounds: Rounds without a better validation loss after which the fit stops.
        categorical_positions: Columns of the matrix that hold level codes.
        names: Names of the matrix' columns.
        n_threads: Threads; the trees do not depend on it.
        segment_rounds: Trees between two checkpoints.
    """

    objective: str
    params: dict[str, bool | int | float | str]
    seed: int
    n_rounds: int
    patience_rounds: int
    categorical_positions: list[int]
    names: list[str]
    n_threads: int = 1
    segment_rounds: int = SEGMENT_ROUNDS


@dataclass(frozen=True)
class Fit:
    """A finished fit, or one at a checkpoint.

    Attributes:
        text: The model as text; up to the best round once finished.
        losses: Validation loss after each round.
    """

    text: str
    losses: tuple[float, ...]

    @property
    def best_round(self) -> int:
        """Return the number of trees with the lowest validation loss, the first of equals."""
        return self.losses.index(min(self.losses)) + 1 if self.losses else 0


def fit_trees(
    train: tuple[Matrix | pa.Table, Vector],
    validation: tuple[Matrix, Vector],
    plan: FitPlan,
    checkpoint: Path | None = None,
    binned_rows: Path | None = None,
) -> Fit:
    """Fit trees with early stopping on the validation rows.

    Args:
        train: Columns of ``encode_columns`` (or a matrix, (n, k)) and label (n,), in a total order:
            another order of rows gives other trees.
        validation: The same for the later rows.
        plan: What to do.
        checkpoint: File of the last finished segment; it is read if it is there, and replaced after
            every segment.
        binned_rows: Folder of rows that were binned before; None bins them.
    """
    state, growing = _load_checkpoint(checkpoint), None
    if state.text or not _may_grow_on(plan):
        binned_rows = None  # Who goes on from a text needs the values themselves.
    data = _dataset(train, plan) if binned_rows is None else _binned(train, plan, binned_rows)
    watched = _dataset(validation, plan, data)
    while not _is_finished(state, plan):
        if growing is not None and _may_grow_on(plan):
            state = _grow_on(growing, state, plan)
        else:
            growing, state = _fit_segment(state, data, watched, plan)
        _save_checkpoint(checkpoint, state)
        hit(Failpoint.CHECKPOINT_AFTER)
    return _at_best(state)


def stop_at_best(text: str, losses: Sequence[float], plan: FitPlan) -> Fit:
    """Return a fit of which all rounds were grown at once as it would have been with early stopping.

    Args:
        text: The model.
        losses: Validation loss after each round.
        plan: Whose patience counts.
    """
    watched: list[float] = []
    for loss in losses:
        watched.append(loss)
        if _has_stalled(watched, plan.patience_rounds):
            break
    return _at_best(Fit(text, tuple(watched)))


def _at_best(state: Fit) -> Fit:
    return replace(
        state,
        text=portable(load_booster(state.text).model_to_string(num_iteration=state.best_round)),
    )


def _dataset(
    rows: tuple[Matrix | pa.Table, Vector], plan: FitPlan, reference: lgb.Dataset | None = None
) -> lgb.Dataset:
    import lightgbm as lgb

    return lgb.Dataset(
        rows[0], rows[1], reference=reference, params=params_of(plan, 0), **_keep(plan)
    )


def _keep(plan: FitPlan) -> dict[str, Any]:
    return {
        "free_raw_data": False,
        "feature_name": plan.names,
        "categorical_feature": plan.categorical_positions,
    }


def _binned(rows: tuple[Matrix | pa.Table, Vector], plan: FitPlan, folder: Path) -> lgb.Dataset:
    """Return the training rows as they were binned before, or bin them and keep that."""
    import lightgbm as lgb

    from nightshift.training.trees.binned_rows import BinnedRows

    facts = {
        "lightgbm": lgb.__version__,
        "names": plan.names,
        "categorical": plan.categorical_positions,
        "seed": plan.seed,
        "params": {name: value for name, value in plan.params.items() if name in _BINS_ON},
    }
    binned = BinnedRows(folder, rows[0], rows[1], facts)
    if path := binned.find():
        try:
            return lgb.Dataset(str(path), params=params_of(plan, 0), **_keep(plan)).construct()
        except lgb.basic.LightGBMError:
            binned.drop(path)
    data = _dataset(rows, plan).construct()
    binned.keep(data.save_binary)
    return data


def params_of(plan: FitPlan, segment: int) -> dict[str, Any]:
    """Return LightGBM's parameters; the streams drawn while growing trees start anew in every segment."""
    stream = plan.seed + segment
    return {
        **plan.params,
        "objective": plan.objective,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": plan.n_threads,
        "seed": plan.seed,
        "data_random_seed": plan.seed,
        "bagging_seed": stream,
        "feature_fraction_seed": stream,
        "extra_seed": stream,
        "verbosity": -1,
    }


def _is_finished(state: Fit, plan: FitPlan) -> bool:
    return len(state.losses) >= plan.n_rounds or _has_stalled(state.losses, plan.patience_rounds)


def _has_stalled(losses: tuple[float, ...] | list[float], patience_rounds: int) -> bool:
    return bool(losses) and len(losses) - (losses.index(min(losses)) + 1) >= patience_rounds


def _fit_segment(
    state: Fit, data: lgb.Dataset, watched: lgb.Dataset, plan: FitPlan
) -> tuple[lgb.Booster, Fit]:
    """Grow one segment from the text of the one before; return the booster, which can grow on, and the state."""
    import lightgbm as lgb

    losses = list(state.losses)

    def watch(env: lgb.callback.CallbackEnv) -> None:
        losses.append(float(env.evaluation_result_list[0][2]))
        if _has_stalled(losses, plan.patience_rounds):
            raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    params, n_rounds = _segment(state, plan)
    booster = lgb.train(
        params,
        data,
        num_boost_round=n_rounds,
        valid_sets=[watched],
        init_model=load_booster(state.text) if state.text else None,
        callbacks=[watch],
        keep_training_booster=True,
    )
    return booster, Fit(booster.model_to_string(num_iteration=-1), tuple(losses))


def _may_grow_on(plan: FitPlan) -> bool:
    """Return whether it gives the same trees; bags are drawn by the round's number, which begins anew in a booster from a text."""
    return (
        plan.params.keys() <= _GROWS_ON
        and plan.segment_rounds % (int(plan.params.get("bagging_freq", 0)) or 1) == 0
    )


def _grow_on(booster: lgb.Booster, state: Fit, plan: FitPlan) -> Fit:
    """Grow the next segment in the booster of the last one: the same trees as from its text, in half of the time.

    LightGBM draws a stream anew when its seed changes, and the one of the bagging only when a
    fraction of it does.
    """
    params, n_rounds = _segment(state, plan)
    fraction = float(plan.params.get("bagging_fraction", 1))
    if fraction < 1:  # at 1 no bag is drawn, and turning that on and off would leave it on
        before = params_of(plan, len(state.losses) // plan.segment_rounds - 1)
        booster.reset_parameter({**before, "bagging_fraction": fraction / 2})
    booster.reset_parameter({**params, "num_iterations": n_rounds})
    losses = list(state.losses)
    for _ in range(n_rounds):
        booster.update()
        losses.append(float(booster.eval_valid()[0][2]))
        if _has_stalled(losses, plan.patience_rounds):
            break
    return Fit(booster.model_to_string(num_iteration=-1), tuple(losses))


def _segment(state: Fit, plan: FitPlan) -> tuple[dict[str, Any], int]:
    """Return the parameters and the length of the next segment."""
    done = len(state.losses)
    return params_of(plan, done // plan.segment_rounds), min(
        plan.segment_rounds, plan.n_rounds - done
    )


def _load_checkpoint(checkpoint: Path | None) -> Fit:
    """Return the last finished segment; one whose digest is not its own is no checkpoint, and the fit starts again."""
    content = None if checkpoint is None else sealed_file.read(checkpoint)
    if checkpoint is None or content is None:
        return Fit("", ())
    document = json.loads(content)
    return Fit(document["text"], tuple(document["losses"]))


def _save_checkpoint(checkpoint: Path | None, state: Fit) -> None:
    if checkpoint is not None:
        sealed_file.write(
            checkpoint, json.dumps({"text": state.text, "losses": state.losses}).encode()
        )
