"""A model of a backtest as the registry would describe it.

The day that trained a model is its name in a backtest; as a number it stands for the version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry.model_versions import ModelVersion

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.backtest.nightly_models import NightlyModels


def version_of(models: NightlyModels, day: dt.date) -> ModelVersion:
    """Return the registry's description of the model of a day, without its files."""
    split = models.split(day)
    is_refit = models.spec.training.recipe.refit
    return ModelVersion(
        model=models.spec.name,
        version=day.toordinal(),
        digest=str(day),
        model_key="",
        model_sha256="",
        model_bytes=None,
        metadata_key="",
        metadata_sha256="",
        metadata_bytes=None,
        training_set=str(day),
        partition_date=day,
        fit_end=split.holdout.last.day if is_refit else split.validation.last.day,
        metrics=models.of(day).model.metrics,
        figures={},
        evaluated={"fit_end": split.validation.last.key} if is_refit else None,
    )
