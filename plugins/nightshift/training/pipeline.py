"""The training pipeline: is it due, read the rows, fit, evaluate, store a candidate."""

from __future__ import annotations

import logging
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import Weekday
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import code_version
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.object_store import ObjectStore
from nightshift.models.engine_equivalence import prove_engines
from nightshift.training.candidate import Candidate, Provenance, find_candidate, store_candidate
from nightshift.training.figures import draw_training
from nightshift.training.holdout import (
    evaluate_split,
    fit_and_evaluate,
    metric_by_day,
    with_reference,
)
from nightshift.training.model_fit import NO_PATHS, FitPaths
from nightshift.training.splits import backtest_folds, is_trainable, rows_of, split_window
from nightshift.training.training_set import count_published_days, find_training_set, read_rows
from nightshift.warehouse.connection import connect
from nightshift.warehouse.retrain_requests import closed_by, open_ones

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings
    from nightshift.training.evaluation import MetricValue
    from nightshift.training.splits import Split
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_WEEKDAYS = list(Weekday)


def is_due(settings: Settings, spec: ModelSpec, partition: Partition) -> bool:
    """Return whether this partition trains.

    It does when its schedule says so, when a retrain request of the monitor is open, or when it
    has closed one (a rerun). A weekly training that was missed stays due until a partition has
    trained. A warehouse whose history is shorter than ``minimum_days`` is never due: the rule
    scores its partitions.
    """
    training = spec.training
    with connect(settings, f"nightshift is_due {spec.name}"[:63]) as conn:
        if count_published_days(conn, spec, partition) < training.minimum_days:
            logger.info(
                "%s has fewer published days than training.minimum_days, %s.",
                spec.features_dataset,
                training.minimum_days,
            )
            return False
        if training.schedule == "nightly":
            return True
        if training.schedule == "weekly" and _is_due_this_week(conn, spec, partition):
            return True
        return bool(open_ones(conn, spec.name, partition) or closed_by(conn, spec.name, partition))


def _is_due_this_week(conn: Connection, spec: ModelSpec, partition: Partition) -> bool:
    """Return whether it is the model's weekday, or no partition has trained since that day."""
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
    # A rerun of the partition that made up for a missed training must be due again.
    return bool(n_versions == 0 or n_own > 0)


def train(settings: Settings, spec: ModelSpec, training_set_key: str, run: RunContext) -> Candidate:
    """Train one candidate, or return the version that was registered from the same inputs.

    The same training set, spec and code give the same digest, unless the spec trains on Dask. A
    killed call resumes from its last checkpoint.

    Raises:
        TrainingError: The task has no trainer.
        TrainingSetError: There is no such training set.
        ObjectStoreError: The rows are missing or were changed, or the store cannot be reached.
    """
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        training_set = find_training_set(conn, training_set_key)
        registered = find_candidate(conn, spec, training_set)
    if registered is not None:
        return registered

    rows = read_rows(store, training_set)
    split = split_window(training_set.window, spec.training)
    fit_identity = f"{training_set.key} {spec.digest} {code_version()}"
    checkpoint_name = sha256(fit_identity.encode()).hexdigest()
    checkpoint = settings.home / "checkpoints" / f"{checkpoint_name}.json"
    paths = FitPaths(checkpoint, settings.home / "binned_rows", settings.dask_scheduler)
    trained, measured, figures = train_rows(spec, rows, split, training_set.key, paths)

    engine_proof = prove_engines(trained, rows_of(rows, split.holdout))
    provenance = Provenance(
        training_set=training_set.key,
        partition=training_set.partition,
        fit_end=split.validation.last.day,
        spec_digest=spec.digest,
        code_version=code_version(),
    )
    candidate = store_candidate(store, trained, provenance, measured, figures)
    hit(Failpoint.TRAIN_STORED)
    # Only a stored candidate makes the checkpoint useless.
    checkpoint.unlink(missing_ok=True)
    return replace(candidate, engine_proof=engine_proof)


def train_rows(
    spec: ModelSpec, rows: pa.Table, split: Split, training_set: str, paths: FitPaths = NO_PATHS
) -> tuple[TrainedModel, list[MetricValue], dict[str, bytes]]:
    """Fit, calibrate and evaluate a model on rows in their total order.

    Returns:
        The model, the metrics (hold-out and backtest) and figures by file name.
    """
    # The checkpoint belongs to the final fit.
    fold_paths = replace(paths, checkpoint=None)
    window = PartitionRange(split.train.first, split.holdout.last)
    folds = []
    for number, fold in enumerate(backtest_folds(window, spec.training), 1):
        if is_trainable(spec, rows, fold):
            folds.append(evaluate_split(spec, rows, fold, f"backtest-{number}", fold_paths))

    trained, final = fit_and_evaluate(spec, rows, split, training_set, paths)
    trained = with_reference(trained, rows, split)
    results = [final, *folds]
    measured = [value for result in results for value in result.measured]
    return trained, measured, draw_training(spec, final, metric_by_day(spec, results))
