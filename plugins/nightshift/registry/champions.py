"""Find the champion of a partition and its predecessors, and try whether it can score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nightshift.errors import ObjectStoreError
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.signature import SignatureError
from nightshift.registry.model_loader import ModelVersion, find_version, load_model

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.trained_model import TrainedModel
    from nightshift.warehouse.connection import Connection

__all__ = [
    "ChampionStatus",
    "ModelVersion",
    "champion_for",
    "load_model",
    "promoted_versions",
    "try_champion",
]

ChampionStatus = Literal["none", "compared", "outdated", "unreadable"]
"""``none``: the model never had one. ``outdated``: it reads columns that the spec does not have any
more, so nothing can be compared. ``unreadable``: its files are missing or damaged.
"""


def champion_for(conn: Connection, model: str, partition: Partition) -> ModelVersion | None:
    """Return the version that serves a partition, None without a champion.

    It is that of the last promotion whose effective partition is not later. Promotions are ordered
    by effective partition, then by when they were decided: an old partition that is trained late
    does not replace the champion of later ones. A rollback revokes the earlier promotions that
    would count from its own partition on.
    """
    row = conn.execute(
        """
        select version from ml.succession where model = %s and effective_partition <= %s
        order by effective_partition desc, promotion_id desc limit 1
        """,
        [model, partition.day],
    ).fetchone()
    return None if row is None else find_version(conn, model, row[0])


def promoted_versions(conn: Connection, model: str, partition: Partition, n: int) -> list[int]:
    """Return the last ``n`` versions that were promoted for a partition, the champion first.

    A version that was rolled back is left out.
    """
    rows = conn.execute(
        """
        with promoted as (
            select distinct on (version) version, effective_partition, promotion_id
            from ml.succession
            where model = %(model)s and effective_partition <= %(day)s
            order by version, effective_partition desc, promotion_id desc
        )
        select version from promoted where not exists (
            select from ml.promotions r
            where r.model = %(model)s and r.verdict = 'rolled_back'
                and r.effective_partition <= %(day)s and r.champion_version = promoted.version
                and r.promotion_id > promoted.promotion_id)
        order by effective_partition desc, promotion_id desc limit %(n)s
        """,
        {"model": model, "day": partition.day, "n": n},
    )
    return [version for (version,) in rows]


def try_champion(
    store: ObjectStore, spec: ModelSpec, champion: ModelVersion, rows: pa.Table
) -> tuple[TrainedModel | None, str, ChampionStatus]:
    """Load a champion and let it score a row; return model, problem and status.

    Raises:
        NightshiftError: An error that a retry may cure, such as a machine too busy to load a model:
            no decision without a comparison may rest on it.
    """
    name = f"champion version {champion.version}"
    # Whether a champion is gone or broken, a person decides: it is never skipped silently.
    try:
        model = load_model(store, champion)
        # Rows of a hold-out are compared between models that never saw them.
        if champion.evaluated is not None:
            model = load_model(store, champion.as_evaluated)
    except (ObjectStoreError, ModelTextError) as error:
        if error.is_retryable:
            raise
        return None, f"{name} cannot be loaded ({error.code})", "unreadable"
    # Such a champion cannot score the rows of this spec; a challenger of the new spec replaces it.
    removed = sorted(set(model.signature.names) - set(spec.features.names))
    if removed:
        problem = f"{name} reads {', '.join(removed)}, which the spec has no more"
        return None, problem, "outdated"
    try:
        model.predictions(rows)
    except SignatureError as error:
        return None, f"{name} cannot score ({error.code})", "unreadable"
    return model, "", "compared"
