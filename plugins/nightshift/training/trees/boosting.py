"""Fit gradient-boosted trees in segments, so that a killed fit can resume.

A fit runs in segments of fixed length. Each starts from the text of the previous one, with random
streams of its own. A killed fit therefore resumes from its last segment and gives the same trees
as an undisturbed one. Source: docs/adr/0007-training-and-promotion.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nightshift import sealed_file
from nightshift.failpoints import Failpoint, hit
from nightshift.models.booster import load_booster, portable
from nightshift.training.trees.refusals import name_refusals

if TYPE_CHECKING:
    import lightgbm as lgb
    import pyarrow as pa

    from nightshift.models.arrays import Integers, Matrix, Vector

    Rows = tuple[Matrix | pa.Table, Vector]

LAMBDARANK = "lambdarank"
"""LightGBM's loss of a ranking."""
MAXIMUM_GROUP_ROWS = 10_000
"""LightGBM refuses more rows of one group."""
_TRUNCATION = 30
"""LightGBM's default: pairs count if one of the two is among so many first rows of its group."""
SEGMENT_ROUNDS = 100
"""Trees between two checkpoints; part of what a fit is: another length gives other trees."""
BINNING_PARAMS = frozenset({"max_bin", "min_data_in_bin", "min_data_in_leaf"})
"""Parameters that decide how values are binned, or whether a column is worth it."""
CONTINUABLE_PARAMS = BINNING_PARAMS | {
    "alpha",
    "bagging_fraction",
    "bagging_freq",
    "cat_l2",
    "cat_smooth",
    "feature_fraction",
    "feature_fraction_bynode",
    "lambda_l1",
    "lambda_l2",
    "learning_rate",
    "max_cat_to_onehot",
    "max_depth",
    "min_data_per_group",
    "min_gain_to_split",
    "min_sum_hessian_in_leaf",
    "num_leaves",
    "path_smooth",
}
"""Parameters with which a booster that continues is proved to give the trees of one that starts
from the text.
"""


@dataclass(frozen=True)
class FitPlan:
    """Everything that defines a fit, apart from its rows.

    Attributes:
        objective: LightGBM's name of the loss.
        params: Free parameters of the spec.
        seed: Seed of every random choice.
        n_rounds: Upper limit of trees.
        patience_rounds: Rounds without a better validation loss after which the fit stops.
        categorical_positions: Columns of the matrix that hold level codes.
        names: Names of the matrix' columns.
        n_threads: Threads; the trees do not depend on it.
        segment_rounds: Rounds between two checkpoints.
        n_classes: Trees of a round: 1, or one of each class.
        top_k: First rows of a group by which the loss of a ranking is measured.
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
    n_classes: int = 1
    top_k: int = 1


class RowFacts(NamedTuple):
    """What else is known of the rows of a fit.

    Attributes:
        weight: Weight of each training row, shape (n,); None weighs them alike.
        groups: Of a ranking: the rows of each group, one group after the other; shape (groups,).
        watched_groups: The same of the validation rows.
    """

    weight: Vector | None = None
    groups: Integers | None = None
    watched_groups: Integers | None = None


_NO_FACTS = RowFacts()


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
        return _best_round(self.losses)


def fit_trees(
    train: Rows,
    validation: tuple[Matrix, Vector] | None,
    plan: FitPlan,
    checkpoint: Path | None = None,
    binned_rows: Path | None = None,
) -> Fit:
    """Fit trees with early stopping on the validation rows, and keep those up to the best round.

    See ``grow_trees``.
    """
    return _cut_at_best_round(
        grow_trees(
            train,
            validation,
            plan,
            checkpoint,
            binned_rows,
        )
    )


@name_refusals()
def grow_trees(
    train: Rows,
    validation: tuple[Matrix, Vector] | None,
    plan: FitPlan,
    checkpoint: Path | None = None,
    binned_rows: Path | None = None,
    facts: RowFacts = _NO_FACTS,
) -> Fit:
    """Grow trees until the validation loss has stalled, and keep all of them.

    Args:
        train: Columns of ``encode_columns`` (or a matrix, (n, k)) and label (n,), in a total order:
            another order of rows gives other trees.
        validation: The same for the later rows; None grows ``plan.n_rounds`` trees.
        plan: Parameters of the fit.
        checkpoint: File of the last finished segment; read if it exists, replaced after every
            segment.
        binned_rows: Folder of rows that earlier fits have binned; None bins them.
        facts: Weights of the rows, and groups of a ranking.

    Raises:
        TreesRefusedError: LightGBM refuses the parameters or the rows.
    """
    state = load_checkpoint(checkpoint)
    # A segment that starts from a text needs the values themselves, not their bins.
    if binned_rows is None or state.text or not _can_continue(plan):
        data = _dataset(*train, plan, weight=facts.weight, groups=facts.groups)
    else:
        data = _binned_dataset(train, plan, binned_rows, facts.weight)
    valid = None
    if validation is not None:
        valid = _dataset(*validation, plan, data, groups=facts.watched_groups)

    booster = None
    while len(state.losses) < plan.n_rounds and not _has_stalled(state.losses, plan):
        if booster is not None and _can_continue(plan):
            state = _continue_booster(booster, state, plan)
        else:
            booster, state = _fit_segment(state, data, valid, plan)
        save_checkpoint(checkpoint, state)
        hit(Failpoint.CHECKPOINT_AFTER)
    return replace(state, text=portable(state.text))


def stop_at_best(text: str, losses: Sequence[float], plan: FitPlan) -> Fit:
    """Apply early stopping to a fit of which all rounds were grown at once.

    Args:
        text: The model.
        losses: Validation loss after each round.
        plan: Its patience counts.
    """
    n_watched = 1
    # The first round at which patience ends stops the fit, as it would have while growing.
    while n_watched < len(losses) and not _has_stalled(losses[:n_watched], plan):
        n_watched += 1
    return _cut_at_best_round(Fit(text, tuple(losses[:n_watched])))


def params_of(plan: FitPlan, segment: int) -> dict[str, Any]:
    """Return LightGBM's parameters of a segment."""
    # The random streams that are drawn while growing trees start anew in every segment.
    stream = plan.seed + segment
    of_task: dict[str, Any] = {}
    if plan.n_classes > 1:
        of_task["num_class"] = plan.n_classes
    if plan.objective == LAMBDARANK:
        # Pairs that cannot change the first top_k rows are not compared.
        of_task = {
            "metric": "ndcg",
            "eval_at": [plan.top_k],
            "lambdarank_truncation_level": max(plan.top_k, _TRUNCATION),
        }
    return {
        **of_task,
        **plan.params,
        "objective": plan.objective,
        # The same trees on any number of threads, and on any machine of the same kind.
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


def _dataset(
    data: Matrix | pa.Table | str,
    label: Vector | None,
    plan: FitPlan,
    reference: lgb.Dataset | None = None,
    weight: Vector | None = None,
    groups: Integers | None = None,
) -> lgb.Dataset:
    """Return rows as a dataset of LightGBM.

    Args:
        data: Values, or the file of a binned dataset.
        label: Shape (n,); None where the file has it.
        plan: Parameters and columns.
        reference: Dataset whose bins are used; None makes new ones.
        weight: Weight of each row; None weighs them alike.
        groups: Rows of each group of a ranking.
    """
    import lightgbm as lgb

    return lgb.Dataset(
        data,
        label,
        reference=reference,
        weight=weight,
        group=groups,
        params=params_of(plan, 0),
        # A segment that starts from a text predicts the raw rows first.
        free_raw_data=False,
        feature_name=plan.names,
        categorical_feature=plan.categorical_positions,
    )


def _binned_dataset(rows: Rows, plan: FitPlan, folder: Path, weight: Vector | None) -> lgb.Dataset:
    """Return the training rows as an earlier fit binned them, or bin them and keep the result."""
    import lightgbm as lgb

    from nightshift.training.trees.binned_rows import BinnedRows

    binning_params = {name: value for name, value in plan.params.items() if name in BINNING_PARAMS}
    # Whatever changes the bins is part of the file's name.
    facts = {
        "lightgbm": lgb.__version__,
        "names": plan.names,
        "categorical": plan.categorical_positions,
        "seed": plan.seed,
        "params": binning_params,
    }
    # The file holds the weights too. Without any, its name stays what it was.
    if weight is not None:
        facts["weight"] = sha256(weight.tobytes()).hexdigest()
    binned = BinnedRows(folder, *rows, facts)
    path = binned.find()
    if path is not None:
        try:
            return _dataset(str(path), None, plan).construct()
        except lgb.basic.LightGBMError:
            binned.drop(path)
    data = _dataset(*rows, plan, weight=weight).construct()
    binned.keep(data.save_binary)
    return data


def _fit_segment(
    state: Fit, data: lgb.Dataset, valid: lgb.Dataset | None, plan: FitPlan
) -> tuple[lgb.Booster, Fit]:
    """Grow one segment from the text of the previous one.

    Returns:
        The booster, which can continue, and the state.
    """
    import lightgbm as lgb

    losses = list(state.losses)

    def watch(env: lgb.callback.CallbackEnv) -> None:
        losses.append(_loss(env.evaluation_result_list, losses))
        if _has_stalled(losses, plan):
            raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    params, n_rounds = _next_segment(state, plan)
    previous = load_booster(state.text) if state.text else None
    # The callback stops the fit. LightGBM's own early stopping would count within one segment.
    booster = lgb.train(
        params,
        data,
        num_boost_round=n_rounds,
        valid_sets=[] if valid is None else [valid],
        init_model=previous,
        callbacks=[watch],
        # Otherwise the booster could not continue.
        keep_training_booster=True,
    )
    # All trees, also those after the best round so far.
    text = booster.model_to_string(num_iteration=-1)
    return booster, Fit(text, tuple(losses))


def _loss(results: Sequence[tuple[Any, ...]], losses: Sequence[float]) -> float:
    """Return the validation loss of a round; without validation rows a falling number."""
    # A fit of a fixed number of rounds never stalls: each round counts as better than the last.
    if not results:
        return -1.0 - len(losses)
    value, is_higher_better = float(results[0][2]), results[0][3]
    return 1 - value if is_higher_better else value


def _can_continue(plan: FitPlan) -> bool:
    """Return whether a booster that continues gives the trees of one that starts from the text."""
    # LightGBM draws bags by the round's number, which begins anew in a booster from a text. So a
    # segment must hold a whole number of bagging periods.
    bagging_rounds = int(plan.params.get("bagging_freq", 0)) or 1
    is_single = plan.n_classes == 1 and plan.objective != LAMBDARANK
    is_proved = plan.params.keys() <= CONTINUABLE_PARAMS and is_single
    return is_proved and plan.segment_rounds % bagging_rounds == 0


def _continue_booster(booster: lgb.Booster, state: Fit, plan: FitPlan) -> Fit:
    """Grow the next segment in the booster of the last one.

    It gives the same trees as a start from its text, in half of the time.
    """
    params, n_rounds = _next_segment(state, plan)
    bagging_fraction = float(plan.params.get("bagging_fraction", 1))
    # LightGBM restarts a random stream when its seed changes, but that of the bagging only when a
    # fraction changes: hence the detour by another fraction. At 1 no bag is drawn, and the detour
    # would leave the bagging on.
    if bagging_fraction < 1:
        previous = params_of(plan, len(state.losses) // plan.segment_rounds - 1)
        booster.reset_parameter({**previous, "bagging_fraction": bagging_fraction / 2})
    booster.reset_parameter({**params, "num_iterations": n_rounds})
    losses = list(state.losses)
    for _ in range(n_rounds):
        booster.update()
        losses.append(_loss(booster.eval_valid(), losses))
        if _has_stalled(losses, plan):
            break
    text = booster.model_to_string(num_iteration=-1)
    return Fit(text, tuple(losses))


def _next_segment(state: Fit, plan: FitPlan) -> tuple[dict[str, Any], int]:
    """Return the parameters and the number of rounds of the next segment."""
    n_done = len(state.losses)
    segment = n_done // plan.segment_rounds
    # The last segment may be shorter.
    n_rounds = min(plan.segment_rounds, plan.n_rounds - n_done)
    return params_of(plan, segment), n_rounds


def _has_stalled(losses: Sequence[float], plan: FitPlan) -> bool:
    """Return whether the best loss is ``patience_rounds`` rounds old."""
    n_waited = len(losses) - _best_round(losses)
    return bool(losses) and n_waited >= plan.patience_rounds


def _best_round(losses: Sequence[float]) -> int:
    """Return the number of the round with the lowest loss, the first of equals; 0 without any."""
    return losses.index(min(losses)) + 1 if losses else 0


def _cut_at_best_round(state: Fit) -> Fit:
    """Return the fit without the trees after its best round."""
    # The file holds the trees that count, not those of the patience.
    return replace(state, text=first_trees(state.text, state.best_round))


def first_trees(text: str, n_rounds: int) -> str:
    """Return a text model with its first trees only."""
    return portable(load_booster(text).model_to_string(num_iteration=n_rounds))


def load_checkpoint(checkpoint: Path | None) -> Fit:
    """Return the last finished segment; an empty state if the file is missing or damaged."""
    content = None if checkpoint is None else sealed_file.read(checkpoint)
    if content is None:
        return Fit("", ())
    document = json.loads(content)
    return Fit(document["text"], tuple(document["losses"]))


def save_checkpoint(checkpoint: Path | None, state: Fit) -> None:
    """Replace the checkpoint with the current state."""
    if checkpoint is not None:
        document = json.dumps({"text": state.text, "losses": state.losses})
        sealed_file.write(checkpoint, document.encode())
