"""Load a version of a model, try it on a partition's rows, and tell whose fault a failure is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, WarehouseError, cause_of, stack_of
from nightshift.lake.object_store import ObjectStore
from nightshift.models.sandboxed_load import retry_starved
from nightshift.registry.model_versions import find_version, open_model
from nightshift.scoring.feature_rows import read_sample
from nightshift.scoring.scorer import ChampionBrokenError, Scorer, try_model

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

logger = logging.getLogger(__name__)

Models = Mapping[int, "TrainedModel"]
"""Loaded models by version."""
LOADING_SECONDS = 240
"""How long loading a model is retried on a busy machine before the next step takes over."""


def load_version(
    settings: Settings, conn: Connection, spec: ModelSpec, version: int
) -> TrainedModel:
    """Read a version of the model; its files are verified, and its trees tried by their engine.

    Raises:
        RegistryError: There is no such version.
        ObjectStoreError: A file is missing or was changed.
        ModelTextError: The trees are refused.
        ChampionBrokenError: The file holds another model.
    """
    model = open_model(ObjectStore.open(settings), find_version(conn, spec.name, version))
    if (model.model, model.task) != (spec.name, spec.task):
        raise ChampionBrokenError(
            "The champion's file holds another model.",
            expected=f"{spec.name}, {spec.task}",
            got=f"{model.model}, {model.task}",
        )
    if model.classes != spec.classes:
        raise ChampionBrokenError(
            f"Version {version} predicts other classes than the spec declares.",
            expected=", ".join(spec.classes),
            got=", ".join(model.classes),
            todo="Train again: the rule scores until a version of these classes is champion.",
        )
    return model


def load_scorer(spec: ModelSpec, model: TrainedModel, *, with_reasons: bool = True) -> Scorer:
    """Return the scorer of a model, also on a machine that is too busy at the first try.

    Args:
        spec: The model's spec.
        model: The model.
        with_reasons: Whether it gives the reasons and causes that the spec publishes.
    """
    scoring = spec.scoring
    n_reasons, causes = (scoring.reasons, spec.analytics.causes) if with_reasons else (0, ())
    return retry_starved(lambda: Scorer(model, n_reasons, scoring.engine, causes), LOADING_SECONDS)


@dataclass(frozen=True)
class TriedVersion:
    """A version that has scored a sample of the rows, and its model."""

    version: ModelVersion
    model: TrainedModel


def try_version(
    settings: Settings, conn: Connection, spec: ModelSpec, version: int, features: LoadRecord
) -> TriedVersion:
    """Prove that a version can score a feature load.

    A model may break in any way: every exception means that the version cannot score.
    """
    scoring = spec.scoring
    model = load_version(settings, conn, spec, version)
    rows = read_sample(settings, spec, features, model.signature.names)
    retry_starved(
        lambda: try_model(model, rows, scoring.reasons, scoring.engine, spec.analytics.causes),
        LOADING_SECONDS,
    )
    return TriedVersion(find_version(conn, spec.name, version), model)


@contextmanager
def blame_model(version: int, run: RunContext) -> Iterator[None]:
    """Turn every error of a model into ``ChampionBrokenError``; errors of the warehouse pass."""
    import psycopg

    try:
        yield
    except (psycopg.Error, WarehouseError, MemoryError):
        # The machine or the warehouse is to blame: another model would fail as well.
        raise
    except Exception as error:
        # The store may be back at the second attempt: only then the next step takes over.
        if isinstance(error, NightshiftError) and error.is_retryable and run.attempt == 1:
            raise
        logger.warning("Version %s cannot score:\n%s", version, stack_of(error))
        raise ChampionBrokenError(
            f"version {version} cannot score ({cause_of(error)})",
            todo="Roll the champion back.",
        ) from error
