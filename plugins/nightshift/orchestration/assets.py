"""Every asset: what a DAG emits for a partition, and what triggers the next DAG."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

from airflow.sdk import Asset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk.definitions.asset import BaseAsset

    from nightshift.contracts.model_spec import ModelSpec


def raw(dataset: str) -> Asset:
    """Return the asset of a published raw dataset."""
    return Asset(f"raw/{dataset}", group="raw")


def features(view: str) -> Asset:
    """Return the asset of a published feature view."""
    return Asset(f"features/{view}", group="features")


def predictions(spec: ModelSpec) -> Asset:
    """Return the asset of a model's published predictions."""
    return Asset(spec.predictions_dataset, group="predictions")


def retrain(spec: ModelSpec) -> Asset:
    """Return the asset that triggers training early; the request itself is in the warehouse."""
    return Asset(f"retrain/{spec.name}", group="retrain")


def model(spec: ModelSpec) -> Asset:
    """Return the asset of a model's promotion decisions."""
    return Asset(f"model/{spec.name}", group="model")


def all_of(assets: Iterable[Asset]) -> BaseAsset:
    """Return the condition that every asset has an event of the partition."""
    return reduce(and_, assets)


def any_of(assets: Iterable[Asset]) -> BaseAsset:
    """Return the condition that at least one asset has an event of the partition."""
    return reduce(or_, assets)
