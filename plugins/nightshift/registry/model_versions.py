"""Register model versions in the warehouse, which is the truth, and mirror them to MLflow.

This module is the front of the registry: ``model_loader`` finds and loads versions,
``mlflow_mirror`` shows them.
"""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.models.explanation import explanation_of
from nightshift.registry.mlflow_mirror import mirror_aliases, mirror_version, sync_mlflow
from nightshift.registry.model_loader import (
    ModelVersion,
    RegistryError,
    find_version,
    load_model,
    open_model,
    select_versions,
)
from nightshift.warehouse.connection import connect, lose

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.lake.object_store import ObjectStore
    from nightshift.settings import Settings
    from nightshift.training.candidate import Candidate
    from nightshift.training.evaluation import MetricValue
    from nightshift.warehouse.connection import Connection

__all__ = [
    "ModelVersion",
    "RegistryError",
    "find_version",
    "load_model",
    "lock_model",
    "mirror_aliases",
    "open_model",
    "record_evidence",
    "record_missing_explanations",
    "register",
    "sync_mlflow",
]


logger = logging.getLogger(__name__)


def register(settings: Settings, candidate: Candidate, run: RunContext) -> ModelVersion:
    """Record a candidate and its evidence, and mirror it to MLflow.

    A digest that is registered already keeps its version.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        with conn.transaction():
            # Two runs that register at once must not take the same version number.
            lock_model(conn, candidate.model)
            if _find(conn, candidate) is None:
                version_number = _insert(conn, candidate, run)
                if candidate.model_json:
                    explanation = explanation_of(candidate.model_json)
                    record_explanation(conn, candidate.model, version_number, explanation)
                record_evidence(conn, candidate, candidate.measured, run)
        hit(Failpoint.REGISTER_AFTER, lambda: lose(conn))
        version = _find(conn, candidate)
        assert version is not None  # noqa: S101 - inserted above
        mirror_version(settings, conn, version)
    return version


def lock_model(conn: Connection, model: str) -> None:
    """Let no other transaction register or decide for this model until the caller's ends."""
    conn.execute("select pg_advisory_xact_lock(hashtextextended('ml:' || %s, 0))", [model])


def record_evidence(
    conn: Connection, about: Candidate | ModelVersion, measured: list[MetricValue], run: RunContext
) -> None:
    """Append metrics of a version; those that are recorded already stay."""
    # A rerun measures the same numbers: the recorded ones stand.
    rows = [{**vars(about), **vars(value), "run_id": run.run_id} for value in measured]
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into ml.evaluations (model, digest, training_set, sample, source, slice_column,
                slice_level, metric, value, n_rows, run_id)
            values (%(model)s, %(digest)s, %(training_set)s, %(sample)s, %(source)s,
                %(slice_column)s, %(slice_level)s, %(metric)s, %(value)s, %(n_rows)s, %(run_id)s)
            on conflict do nothing
            """,
            rows,
        )


def record_explanation(
    conn: Connection, model: str, version: int, explanation: dict[str, Any]
) -> None:
    """Record the explanation of a registered version; one that is recorded already stays."""
    conn.execute(
        """
        insert into ml.version_explanations (model, version, base_raw, base_probability)
        values (%s, %s, %s, %s) on conflict do nothing
        """,
        [model, version, explanation["base_raw"], explanation["base_probability"]],
    )
    # Only versions of classes: a warehouse that was not migrated yet registers all others.
    if explanation["base_by_class"] is not None:
        conn.execute(
            """
            update ml.version_explanations set base_by_class = %s where model = %s and version = %s
            """,
            [json.dumps(explanation["base_by_class"]), model, version],
        )
    rows = [
        {"model": model, "version": version, "feature": name, **values}
        for name, values in explanation["usual"].items()
    ]
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into ml.feature_references
                (model, version, feature, usual_low, usual_high, usual_level)
            values (%(model)s, %(version)s, %(feature)s,
                %(usual_low)s, %(usual_high)s, %(usual_level)s)
            on conflict do nothing
            """,
            rows,
        )


def record_missing_explanations(conn: Connection, store: ObjectStore, model: str) -> int:
    """Record the explanations of versions that were registered before there were any.

    A file that cannot be read costs its version the words, and nothing else.

    Returns:
        The number of versions that have one now.
    """
    versions = conn.execute(
        """
        select v.version, v.metadata_key, v.metadata_sha256 from ml.model_versions v
        where v.model = %s and v.metadata_bytes is not null and not exists (
            select from ml.version_explanations e
            where e.model = v.model and e.version = v.version
        )
        order by v.version
        """,
        [model],
    ).fetchall()
    n_recorded = 0
    for version, key, digest in versions:
        try:
            content = store.get(key)
            # Only what the trainer wrote is shown to people.
            if sha256(content).hexdigest() != digest:
                raise ValueError("its digest differs from the registered one")
            explanation = explanation_of(content)
        except (NightshiftError, ValueError, LookupError, TypeError) as error:
            logger.warning("Version %s of %s has no explanation: %s", version, model, error)
            continue
        with conn.transaction():
            record_explanation(conn, model, version, explanation)
        n_recorded += 1
    return n_recorded


def _find(conn: Connection, candidate: Candidate) -> ModelVersion | None:
    condition = "where v.model = %s and v.digest = %s"
    versions = select_versions(conn, condition, [candidate.model, candidate.digest])
    return versions[0] if versions else None


def _insert(conn: Connection, candidate: Candidate, run: RunContext) -> int:
    """Insert a version under the next number, and return the number."""
    proof = candidate.engine_proof
    row = conn.execute(
        """
        insert into ml.model_versions (model, version, digest, model_key, model_sha256, model_bytes,
            metadata_key, metadata_sha256, metadata_bytes, trees_sha256, training_set,
            partition_date, fit_end, spec_digest, code_version, metrics, figures, run_id,
            engine_proof, evaluated, importance)
        select %(model)s, coalesce(max(version), 0) + 1, %(digest)s, %(model_key)s,
            %(model_sha256)s, %(model_bytes)s, %(metadata_key)s, %(metadata_sha256)s,
            %(metadata_bytes)s, %(trees_sha256)s, %(training_set)s, %(day)s, %(fit_end)s,
            %(spec_digest)s, %(code_version)s, %(metrics)s, %(figures)s, %(run_id)s,
            %(engine_proof)s, %(evaluated)s, %(importance)s
        from ml.model_versions where model = %(model)s
        returning version
        """,
        {
            **vars(candidate),
            "metrics": json.dumps(candidate.metrics),
            "figures": json.dumps(candidate.figures),
            "day": candidate.partition.day,
            "run_id": run.run_id,
            "engine_proof": json.dumps(proof) if proof else None,
            "evaluated": json.dumps(candidate.evaluated) if candidate.evaluated else None,
            "importance": json.dumps(candidate.importance) if candidate.importance else None,
        },
    ).fetchone()
    assert row is not None  # noqa: S101 - inserted above
    return int(row[0])
