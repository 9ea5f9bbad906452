"""Fit trees on a Dask cluster, for rows that take one machine too long.

LightGBM's distributed training has neither early stopping nor checkpoints. So all rounds are grown,
and the validation rows decide afterwards how many of them count. This is the only module that knows
Dask. Source: docs/adr/0029-training-at-size.md.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.errors import NightshiftError
from nightshift.models.booster import load_booster, portable
from nightshift.training.trees.boosting import Fit, params_of, stop_at_best

if TYPE_CHECKING:
    import pyarrow as pa
    from dask.distributed import Client

    from nightshift.models.arrays import Matrix, Vector
    from nightshift.training.trees.boosting import FitPlan


logger = logging.getLogger(__name__)

PIECE_ROWS = 250_000
"""Rows that are sent to a worker at once."""
CONNECT_SECONDS = 30
NETWORK_MINUTES = 5
"""How long LightGBM's workers wait for each other before the fit fails."""


class DaskError(NightshiftError):
    """The Dask cluster cannot be reached, has no workers, or lost one; nothing was stored."""

    code = "NS-TRAIN-014"
    is_retryable = True


def fit_trees_on_dask(
    train: tuple[pa.Table, Vector], validation: tuple[Matrix, Vector], plan: FitPlan, scheduler: str
) -> Fit:
    """Grow all rounds on a cluster, and keep those up to the best one by the rule of ``fit_trees``.

    See ``grow_trees_on_dask``.
    """
    grown = grow_trees_on_dask(train, validation, plan, scheduler)
    return stop_at_best(grown.text, grown.losses, plan)


def grow_trees_on_dask(
    train: tuple[pa.Table, Vector],
    validation: tuple[Matrix, Vector] | None,
    plan: FitPlan,
    scheduler: str,
) -> Fit:
    """Grow all rounds on a cluster, and keep all of them.

    Each worker holds one consecutive part of the rows. LightGBM numbers the workers anew in each
    fit, and the sums of histograms are rounded in that order. So another fit gives other trees of
    the same quality.

    Args:
        train: Columns of ``encode_columns`` and label (n,), in a total order.
        validation: Matrix of ``encode``, (m, k), and label (m,), of the later rows; None measures
            no loss.
        plan: Parameters of the fit.
        scheduler: Address of the cluster's scheduler; empty starts ``plan.n_threads`` local workers
            for the time of the fit.

    Raises:
        DaskError: The cluster failed, or the loss of the objective is not known.
    """
    if validation is not None and plan.objective not in _LOSSES:
        raise DaskError(
            f"The objective {plan.objective} cannot be stopped early on Dask.",
            expected=", ".join(sorted(_LOSSES)),
            todo="Set `training.engine: local`.",
        )
    with _cluster(scheduler, plan.n_threads) as client:
        text = _grow(client, train, plan)
    losses = [] if validation is None else losses_of(text, plan, validation)
    return Fit(text, tuple(losses))


def losses_of(text: str, plan: FitPlan, validation: tuple[Matrix, Vector]) -> list[float]:
    """Return the validation loss after each round, as LightGBM measures it, to rounding."""
    matrix, label = validation
    loss = _LOSSES[plan.objective]
    booster = load_booster(text, plan.names)
    # Predictions are summed tree by tree, which is one pass for all rounds.
    raw = np.zeros(len(label))
    losses = []
    for number in range(booster.num_trees()):
        raw += booster.predict(
            matrix,
            raw_score=True,
            start_iteration=number,
            num_iteration=1,
            num_threads=plan.n_threads,
        )
        row_losses = loss(raw, label, plan.params)
        losses.append(float(np.mean(row_losses)))
    return losses


def _grow(client: Client, train: tuple[pa.Table, Vector], plan: FitPlan) -> str:
    """Return the model of all rounds as text."""
    import lightgbm as lgb

    is_binary = plan.objective == "binary"
    model_type = lgb.DaskLGBMClassifier if is_binary else lgb.DaskLGBMRegressor
    params = params_of(plan, 0)
    # Each worker has its own number of threads.
    del params["num_threads"]
    model = model_type(
        client=client,
        n_estimators=plan.n_rounds,
        tree_learner="data",
        time_out=NETWORK_MINUTES,
        **params,
    )
    matrix, label = _distributed(client, *train)
    model.fit(
        matrix,
        label,
        categorical_feature=plan.categorical_positions,
        feature_name=plan.names,
    )
    return portable(model.booster_.model_to_string(num_iteration=-1))


@contextmanager
def _cluster(scheduler: str, n_local: int) -> Iterator[Client]:
    """Connect to a cluster, or start a local one.

    Raises:
        DaskError: Anything failed within the block: it is Dask's failure, or that of LightGBM's
            network.
    """
    from dask.distributed import Client, LocalCluster

    # A failure of any kind within the block leaves no worker process behind.
    cluster = None
    try:
        if not scheduler:
            options: dict[str, Any] = {
                "threads_per_worker": 1,
                # No port is open to the network, no dashboard, and no limit that kills a worker.
                "host": "127.0.0.1",
                "dashboard_address": None,
                "memory_limit": 0,
            }
            with _empty_main_module():
                cluster = LocalCluster(n_workers=n_local, processes=True, **options)
        with Client(cluster or scheduler, timeout=CONNECT_SECONDS) as client:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            yield client
    except Exception as error:
        raise DaskError(
            "The trees were not grown on the Dask cluster.",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            todo="Look at the scheduler and its workers (NIGHTSHIFT_DASK_SCHEDULER), then rerun "
            "the task; or set `training.engine: local`.",
        ) from error
    finally:
        if cluster is not None:
            cluster.close()


@contextmanager
def _empty_main_module() -> Iterator[None]:
    """Replace ``__main__``, so that processes spawned meanwhile do not import this program.

    The program of an Airflow task looks for a database when it is imported.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _distributed(client: Client, rows: pa.Table, label: Vector) -> tuple[Any, Any]:
    """Send each worker its consecutive share of the rows.

    Rows are sent in pieces, so that no more than one piece is in memory twice.
    """
    import dask.array as da

    # A fixed order of ours; LightGBM numbers the workers anew in each fit all the same.
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    n_rows = len(label)
    share = math.ceil(n_rows / len(workers))
    matrices = []
    labels = []
    for number, worker in enumerate(workers, 1):
        # The last workers may get fewer rows, or none.
        first = min((number - 1) * share, n_rows)
        end = min(first + share, n_rows)
        for start in range(first, end, PIECE_ROWS):
            piece = slice(start, min(start + PIECE_ROWS, end))
            columns = rows.slice(start, piece.stop - start).columns
            doubles = [column.to_numpy().astype(np.float64, copy=False) for column in columns]
            matrices.append(_send(client, worker, np.column_stack(doubles)))
            labels.append(_send(client, worker, label[piece]))
        logger.info("Worker %s of %s holds %s rows.", number, len(workers), f"{end - first:,}")
    return da.concatenate(matrices), da.concatenate(labels)


def _send(client: Client, worker: str, values: Matrix) -> Any:  # noqa: ANN401 - Dask's array
    """Send values to a worker and return them as an array of Dask."""
    import dask.array as da

    # Without a hash each piece has a key of its own: pieces of equal content stay apart.
    sent = client.scatter(values, workers=[worker], hash=False)
    return da.from_delayed(sent, values.shape, np.float64)


def _huber(raw: Vector, label: Vector, params: Mapping[str, Any]) -> Vector:
    alpha = float(params.get("alpha", 0.9))
    distance = abs(raw - label)
    return np.where(distance <= alpha, 0.5 * distance**2, alpha * (distance - 0.5 * alpha))


def _fair(raw: Vector, label: Vector, params: Mapping[str, Any]) -> Vector:
    width = float(params.get("fair_c", 1.0))
    distance = abs(raw - label)
    return width * distance - width * width * np.log1p(distance / width)


def _quantile(raw: Vector, label: Vector, params: Mapping[str, Any]) -> Vector:
    alpha = float(params.get("alpha", 0.9))
    distance = label - raw
    return np.where(distance < 0, (alpha - 1) * distance, alpha * distance)


# LightGBM's objectives: the loss of each row from raw prediction, label and parameters.
_LOSSES: dict[str, Callable[[Vector, Vector, Mapping[str, Any]], Vector]] = {
    "binary": lambda raw, label, _: np.logaddexp(0, np.where(label > 0, -raw, raw)),
    "regression": lambda raw, label, _: (raw - label) ** 2,
    "regression_l1": lambda raw, label, _: abs(raw - label),
    "mape": lambda raw, label, _: abs(raw - label) / np.maximum(1, abs(label)),
    "huber": _huber,
    "fair": _fair,
    "quantile": _quantile,
}
