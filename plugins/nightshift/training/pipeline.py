"""From a partition to a candidate: is it time, what are the rows, fit, calibrate, measure, store."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.contracts.model_spec import Weekday
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.kernels import thread_count
from nightshift.lake.object_store import ObjectStore
from nightshift.models.booster import importance, load_booster, predict_raw
from nightshift.models.calibration import fit_calibration
from nightshift.models.engine_equivalence import prove_engines
from nightshift.models.predictions import Predictions
from nightshift.models.signature import encode, encode_columns, learn_signature, numbers
from nightshift.models.trained_model import TrainedModel
from nightshift.training.candidate import Candidate, Provenance, store_candidate
from nightshift.training.evaluation import (
    MetricValue,
    best_threshold,
    evidence,
    measure,
    overall,
    rule_predictions,
)
from nightshift.training.figures import draw_binary, draw_by_day, draw_importance, draw_regression
from nightshift.training.reference_profile import describe
from nightshift.training.splits import Split, backtest_folds, rows_between, rows_of, split_window
from nightshift.training.training_set import count_published_days, find_training_set, read_rows
from nightshift.training.trees.boosting import FitPlan, fit_trees
from nightshift.training.trees.dask_trees import fit_trees_on_dask
from nightshift.training.window_checks import check_window, is_trainable
from nightshift.warehouse.connection import connect
from nightshift.warehouse.retrain_requests import closed_by, open_ones

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.training.training_set import TrainingSet
    from nightshift.warehouse.connection import Connection

    Vector = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

_OBJECTIVES = {Task.BINARY: "binary", Task.REGRESSION: "regression"}
_WEEKDAYS = list(Weekday)


class TrainingError(NightshiftError):
    """The spec cannot be trained."""

    code = "NS-TRAIN-011"


def is_due(settings: Settings, spec: ModelSpec, partition: Partition) -> bool:
    """Return whether this night trains.

    Its schedule says so, an order of the monitor is open, or this night has closed one (a rerun). A
    weekly training that was missed stays due until a night has trained. A warehouse whose history
    is still shorter than ``minimum_days`` is never due: its nights are scored by the rule.
    """
    with connect(settings, f"nightshift is_due {spec.name}"[:63]) as conn:
        if count_published_days(conn, spec, partition) < spec.training.minimum_days:
            logger.info(
                "%s has fewer published days than training.minimum_days, %s.",
                spec.features_dataset,
                spec.training.minimum_days,
            )
            return False
        if spec.training.schedule == "nightly":
            return True
        if spec.training.schedule == "weekly" and _is_due_this_week(conn, spec, partition):
            return True
        return bool(open_ones(conn, spec.name, partition) or closed_by(conn, spec.name, partition))


def _is_due_this_week(conn: Connection, spec: ModelSpec, partition: Partition) -> bool:
    """Return whether a weekly model trains on this night: on its weekday, or later if nobody has trained since then."""
    days_late = (partition.day.weekday() - _WEEKDAYS.index(spec.training.weekday)) % 7
    if days_late == 0:
        return True
    row = conn.execute(
        """
        select count(*), count(*) filter (where partition_date = %s) from ml.model_versions
        where model = %s and partition_date >= %s
        """,
        [partition.day, spec.name, partition.shift(-days_late).day],
    ).fetchone()
    n_versions, n_own = row or (0, 0)
    # A rerun of the night that made up for the missed one answers as that night did.
    return bool(n_versions == 0 or n_own > 0)


def train(settings: Settings, spec: ModelSpec, training_set_key: str, run: RunContext) -> Candidate:
    """Train one candidate; the same training set, spec and code give the same digest, unless the spec trains on Dask.

    A version that was registered from the same three is returned without a fit. A killed call goes
    on from its last checkpoint.

    Raises:
        TrainingError: The task has no trainer.
        TrainingSetError: There is no such training set.
        ObjectStoreError: The rows are missing or were changed, or the store cannot be reached.
    """
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        training_set = find_training_set(conn, training_set_key)
        known = _registered(conn, spec, training_set)
    if known is not None:
        return known
    rows = read_rows(store, training_set)
    checkpoint = settings.home / "checkpoints" / f"{_fit_identity(spec, training_set)}.json"
    workplace = FitPaths(checkpoint, settings.home / "binned_rows", settings.dask_scheduler)
    split = split_window(training_set.window, spec.training)
    trained, measured, figures = train_rows(spec, rows, split, training_set.key, workplace)
    proof = prove_engines(trained, rows_of(rows, split.holdout))
    candidate = replace(
        store_candidate(store, trained, _origin(spec, training_set, split), measured, figures),
        engine_proof=proof,
    )
    hit(Failpoint.TRAIN_STORED)
    checkpoint.unlink(missing_ok=True)
    return candidate


@dataclass(frozen=True)
class FitPaths:
    """What a fit may use beside its rows.

    Attributes:
        checkpoint: File from which a killed fit goes on; None starts anew.
        binned_rows: Folder of rows that earlier fits have binned; None bins them.
        dask_scheduler: Counts for ``training.engine: dask`` alone; empty starts workers here.
    """

    checkpoint: Path | None = None
    binned_rows: Path | None = None
    dask_scheduler: str = ""


_NOTHING = FitPaths()


def train_rows(
    spec: ModelSpec,
    rows: pa.Table,
    split: Split,
    training_set: str,
    workplace: FitPaths = _NOTHING,
) -> tuple[TrainedModel, list[MetricValue], dict[str, bytes]]:
    """Fit, calibrate and measure a model on rows in their total order.

    Returns:
        The model, the evidence (hold-out and backtest) and figures by file name.
    """
    folds = [
        _fit_and_judge(spec, rows, fold, f"backtest-{n}", replace(workplace, checkpoint=None))
        for n, fold in enumerate(backtest_folds(_window(split), spec.training), 1)
        if is_trainable(spec, rows, fold)
    ]
    trained, final = fit_and_evaluate(spec, rows, split, training_set, workplace)
    trained = with_reference(trained, rows, split)
    measured = [part for judged in (final, *folds) for part in judged.measured]
    return trained, measured, _draw(spec, [final, *folds])


@dataclass(frozen=True)
class HoldoutResult:
    """A model with its predictions on the hold-out of one split.

    Attributes:
        trained: The model; without profile and deciles.
        measured: Evidence on the hold-out.
        rows: The hold-out rows.
        challenger: The model's predictions for them.
        baseline: The rule's predictions for them.
    """

    trained: TrainedModel
    measured: list[MetricValue]
    rows: pa.Table
    challenger: Predictions
    baseline: Predictions


def _fit_and_judge(
    spec: ModelSpec, rows: pa.Table, split: Split, sample: str, workplace: FitPaths = _NOTHING
) -> HoldoutResult:
    check_window(spec, rows, split)
    trained = fit_model(
        spec, rows_of(rows, split.train), rows_of(rows, split.validation), workplace
    )
    trained = replace(trained, training={**trained.training, "split": str(split)})
    holdout = rows_of(rows, split.holdout)
    challenger = trained.predictions(holdout)
    baseline = rule_predictions(
        spec.task,
        spec.scoring.fallback,
        holdout,
        _rule_threshold(spec, rows_of(rows, split.validation)),
    )
    label = numbers(holdout, spec.label.column)
    measured = evidence(
        spec, sample, holdout, label, {"challenger": challenger, "baseline": baseline}
    )
    return HoldoutResult(trained, measured, holdout, challenger, baseline)


def fit_and_evaluate(
    spec: ModelSpec,
    rows: pa.Table,
    split: Split,
    training_set: str,
    workplace: FitPaths = _NOTHING,
) -> tuple[TrainedModel, HoldoutResult]:
    """Fit and calibrate a model on rows in their total order, and judge it; nothing is drawn.

    Returns:
        The model with its hold-out metrics and deciles, and the hold-out that it was judged on.
    """
    final = _fit_and_judge(spec, rows, split, "holdout", workplace)
    trained = replace(
        final.trained,
        decile_edges=_decile_edges(_unseen_scores(final.trained, rows, split)),
        metrics={source: overall(final.measured, source) for source in ("challenger", "baseline")},
        training={**final.trained.training, "training_set": training_set},
    )
    return trained, final


def with_reference(trained: TrainedModel, rows: pa.Table, split: Split) -> TrainedModel:
    """Return the model with the profile that the monitor compares nights with."""
    seen = rows_between(rows, split.train.first.day, split.validation.last.day)
    return replace(
        trained, reference=describe(seen, trained.signature, _unseen_scores(trained, rows, split))
    )


def _unseen_scores(trained: TrainedModel, rows: pa.Table, split: Split) -> Vector:
    return trained.predictions(
        rows_between(rows, split.validation.first.day, split.holdout.last.day)
    ).score


def fit_model(
    spec: ModelSpec, train_part: pa.Table, validation: pa.Table, workplace: FitPaths = _NOTHING
) -> TrainedModel:
    """Fit trees on one part; stop, calibrate and choose the threshold on a later one.

    Raises:
        TrainingError: The task has no trainer.
        SignatureError: The rows do not fit the spec.
        DaskError: The spec asks for Dask, and its cluster failed.
    """
    signature = learn_signature(spec.features, train_part)
    plan = FitPlan(
        objective=_objective(spec),
        params=spec.training.params,
        seed=spec.training.seed,
        n_rounds=spec.training.num_boost_round,
        patience_rounds=spec.training.early_stopping_rounds,
        categorical_positions=signature.categorical_positions,
        names=signature.names,
        n_threads=thread_count(),
    )
    matrix, label = encode(validation, signature), numbers(validation, spec.label.column)
    part = encode_columns(train_part, signature), numbers(train_part, spec.label.column)
    if spec.training.engine == "dask":
        fit = fit_trees_on_dask(part, (matrix, label), plan, workplace.dask_scheduler)
    else:
        fit = fit_trees(part, (matrix, label), plan, workplace.checkpoint, workplace.binned_rows)
    raw = predict_raw(load_booster(fit.text, signature.names), matrix)
    calibration = (
        fit_calibration(spec.training.calibration, raw, label)
        if spec.task == Task.BINARY
        else {"method": "none"}
    )
    facts: dict[str, Any] = {
        "seed": spec.training.seed,
        "n_trees": fit.best_round,
        "n_rounds": len(fit.losses),
        "loss": min(fit.losses),
    }
    model = TrainedModel(
        fit.text, spec.name, spec.task, signature, calibration, 0.5, (), {}, {}, facts
    )
    return replace(model, threshold=_threshold(spec, label, model.from_raw(raw)))


def _objective(spec: ModelSpec) -> str:
    if spec.task not in _OBJECTIVES:
        raise TrainingError(
            f"Task {spec.task} has no trainer.",
            expected=", ".join(_OBJECTIVES),
            todo="Choose a task that has one.",
        )
    return spec.training.objective or _OBJECTIVES[spec.task]


def _threshold(spec: ModelSpec, label: Vector, predictions: Predictions) -> float:
    if spec.positive_threshold is not None or predictions.probability is None:
        return 0.5 if spec.positive_threshold is None else spec.positive_threshold
    return best_threshold(label, predictions.probability)


def _rule_threshold(spec: ModelSpec, validation: pa.Table) -> float:
    return _threshold(
        spec,
        numbers(validation, spec.label.column),
        rule_predictions(spec.task, spec.scoring.fallback, validation),
    )


def _decile_edges(score: Vector) -> tuple[float, ...]:
    import numpy as np

    return tuple(np.quantile(score, np.arange(1, 10) / 10).tolist())


def _draw(spec: ModelSpec, judged: list[HoldoutResult]) -> dict[str, bytes]:
    final = judged[0]
    label = numbers(final.rows, spec.label.column)
    draw = draw_binary if spec.task == Task.BINARY else draw_regression
    return {
        **draw(label, final.challenger, final.baseline),
        "importance.png": draw_importance(importance(final.trained.booster)),
        "backtest.png": draw_by_day(spec.promotion.metric, _by_day(spec, judged)),
    }


def _by_day(spec: ModelSpec, judged: list[HoldoutResult]) -> dict[str, dict[str, float]]:
    """Return the primary metric of each day of every hold-out, by source."""
    import numpy as np

    by_source: dict[str, dict[str, float]] = {"challenger": {}, "baseline": {}}
    for part in judged:
        days = np.array([str(day) for day in part.rows.column("partition_date").to_pylist()])
        label = numbers(part.rows, spec.label.column)
        for day in np.unique(days):
            for source, predictions in (
                ("challenger", part.challenger),
                ("baseline", part.baseline),
            ):
                value = measure(spec.task, label[days == day], predictions.at(days == day))[
                    spec.promotion.metric
                ]
                if value is not None:
                    by_source[source][str(day)] = value
    return by_source


def _window(split: Split) -> PartitionRange:
    return PartitionRange(split.train.first, split.holdout.last)


def _fit_identity(spec: ModelSpec, training_set: TrainingSet) -> str:
    return sha256(f"{training_set.key} {spec.digest} {code_version()}".encode()).hexdigest()


def _origin(spec: ModelSpec, training_set: TrainingSet, split: Split) -> Provenance:
    return Provenance(
        training_set.key,
        training_set.partition,
        split.validation.last.day,
        spec.digest,
        code_version(),
    )


def _registered(conn: Connection, spec: ModelSpec, training_set: TrainingSet) -> Candidate | None:
    names = [
        name for name in Candidate.__dataclass_fields__ if name not in {"partition", "measured"}
    ]
    query = f"""
        select {", ".join(names)} from ml.model_versions
        where model = %s and training_set = %s and spec_digest = %s and code_version = %s and model_bytes is not null
        order by version limit 1
    """  # noqa: S608 - field names of our own type
    row = conn.execute(
        query.encode(), [spec.name, training_set.key, spec.digest, code_version()]
    ).fetchone()
    return (
        None
        if row is None
        else Candidate(partition=training_set.partition, **dict(zip(names, row, strict=True)))
    )
