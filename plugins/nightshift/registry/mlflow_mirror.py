"""Mirror model versions and aliases to MLflow, for people. Only this module knows MLflow.

MLflow may be down, slow or empty: training, promotion and scoring continue, and ``sync_mlflow``
catches up later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version as package_version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nightshift.lake.content_keys import digest_in
from nightshift.lake.object_store import ObjectStore
from nightshift.models.trained_model import TrainedModel
from nightshift.registry.model_loader import ModelVersion, load_model, select_versions
from nightshift.warehouse.connection import connect, conninfo

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_REASON_LENGTH = 300
_MLFLOW_PACKAGES = ("lightgbm", "numpy", "scikit-learn")
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""No telemetry, no progress bars, and timeouts that a run can afford."""


def mirror_version(settings: Settings, conn: Connection, version: ModelVersion) -> str | None:
    """Show one version in MLflow, unless it is shown; record and return a warning, or None.

    A warning is recorded in ``ml.mlflow_mirror``, and ``sync_mlflow`` tries again. Nothing is
    raised for a failure of MLflow: the warehouse has the version.
    """
    if not settings.mlflow_tracking_uri.get_secret_value() or _is_mirrored(conn, version):
        return None
    run_id = mlflow_version = warning = None
    try:
        run_id, mlflow_version = _log_version(settings, version, _application_name(conn))
    except Exception as error:  # noqa: BLE001 - MLflow is a view for people; it must not stop a run
        warning = _warn(settings, version.model, error)
    conn.execute(
        """
        insert into ml.mlflow_mirror (model, digest, mlflow_run_id, mlflow_version, warning,
            mirrored_at)
        values (%s, %s, %s, %s, %s, case when %s::text is null then clock_timestamp() end)
        on conflict (model, digest) do update set mlflow_run_id = excluded.mlflow_run_id,
            mlflow_version = excluded.mlflow_version, warning = excluded.warning,
            mirrored_at = excluded.mirrored_at, tried_at = clock_timestamp()
        where mlflow_mirror.mirrored_at is null
        """,
        [version.model, version.digest, run_id, mlflow_version, warning, warning],
    )
    return warning


def sync_mlflow(settings: Settings, model: str) -> list[str]:
    """Mirror the versions that MLflow does not show yet, and set the aliases.

    Returns:
        Warnings; empty when MLflow shows everything, or is switched off.
    """
    with connect(settings, f"nightshift sync {model}"[:63]) as conn:
        condition = """
            where v.model = %s and not exists (
                select from ml.mlflow_mirror m
                where m.model = v.model and m.digest = v.digest and m.mirrored_at is not null)
            order by v.version
        """
        versions = select_versions(conn, condition, [model])
        warnings = [mirror_version(settings, conn, version) for version in versions]
        warnings.append(mirror_aliases(settings, conn, model))
    return [warning for warning in warnings if warning]


def mirror_aliases(settings: Settings, conn: Connection, model: str) -> str | None:
    """Set MLflow's aliases ``champion`` and ``challenger``; return a warning, or None.

    They are the last promoted version and the last one that was decided about.
    """
    if not settings.mlflow_tracking_uri.get_secret_value():
        return None
    rows = conn.execute(
        """
        with named (alias, version) as (
            (select 'champion', version from ml.succession where model = %(model)s
            order by effective_partition desc, promotion_id desc limit 1)
            union all
            (select 'challenger', version from ml.promotions
            where model = %(model)s
                and verdict not in ('rolled_back', 'canary', 'returned')
            order by promotion_id desc limit 1)
        )
        select alias, mlflow_version
        from named
        join ml.model_versions v using (version)
        join ml.mlflow_mirror m using (model, digest)
        where model = %(model)s and mlflow_version is not null
        """,
        {"model": model},
    ).fetchall()
    try:
        with _mlflow(settings, _application_name(conn)) as mlflow:
            for alias, mlflow_version in rows:
                mlflow.MlflowClient().set_registered_model_alias(model, alias, mlflow_version)
    except Exception as error:  # noqa: BLE001 - MLflow is a view for people; it must not stop a run
        return _warn(settings, model, error)
    return None


def _application_name(conn: Connection) -> str:
    """Return the connection's name, which MLflow's connections get too."""
    return conn.info.get_parameters().get("application_name", "nightshift")


def _is_mirrored(conn: Connection, version: ModelVersion) -> bool:
    """Return whether MLflow shows a version already."""
    query = """
        select 1 from ml.mlflow_mirror
        where model = %s and digest = %s and mirrored_at is not null
    """
    return conn.execute(query, [version.model, version.digest]).fetchone() is not None


def _log_version(
    settings: Settings, version: ModelVersion, application_name: str
) -> tuple[str, str]:
    """Log parameters, metrics, figures and the model; return MLflow's run id and version."""
    store = ObjectStore.open(settings)
    trained = load_model(store, version)
    model, run_name = version.model, f"{version.partition_date} v{version.version}"
    # MLflow prints what it registers, and uses neither of its loggers for that.
    with (
        _mlflow(settings, application_name) as mlflow,
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
    ):
        experiment_id = _experiment_id(mlflow, model, store.uri(f"mlflow/{model}"))
        with mlflow.start_run(experiment_id=experiment_id, run_name=run_name) as active:
            return active.info.run_id, _log_run(mlflow, store, version, trained)


def _experiment_id(mlflow: ModuleType, model: str, artifacts: str) -> str:
    """Return the model's experiment; create it if it does not exist."""
    experiment = mlflow.get_experiment_by_name(model)
    if experiment:
        return str(experiment.experiment_id)
    # With a database as tracking URL, MLflow's default location is the working folder.
    return str(mlflow.create_experiment(model, artifact_location=artifacts))


def _log_run(
    mlflow: ModuleType, store: ObjectStore, version: ModelVersion, trained: TrainedModel
) -> str:
    parameters = {
        "digest": version.digest,
        "version": version.version,
        "partition": version.partition_date.isoformat(),
    }
    # A table is no parameter, and MLflow refuses long ones; model.json has it.
    facts = {name: value for name, value in trained.training.items() if name != "unseen_nights"}
    mlflow.log_params(facts | parameters)
    for source, values in version.metrics.items():
        known = {f"{source}.{name}": value for name, value in values.items() if value is not None}
        mlflow.log_metrics(known)
    with TemporaryDirectory() as folder:
        for name, key in version.figures.items():
            store.download(key, Path(folder) / name, digest_in(key))
        (Path(folder) / "model.json").write_bytes(trained.files["model.json"])
        mlflow.log_artifacts(folder, "evidence")
    # Without given requirements MLflow imports the model in a new process to guess them: 8 seconds.
    requirements = [f"{name}=={package_version(name)}" for name in _MLFLOW_PACKAGES]
    logged = mlflow.lightgbm.log_model(
        trained.booster,
        name="model",
        registered_model_name=version.model,
        pip_requirements=requirements,
        await_registration_for=None,
    )
    return str(logged.registered_model_version)


@contextmanager
def _mlflow(settings: Settings, application_name: str) -> Iterator[ModuleType]:
    """Import MLflow with our tracking server and store; restore the environment afterwards."""
    uri = tracking_uri(settings, application_name)
    # MLflow is configured by variables of the process.
    variables = {
        **_MLFLOW_ENVIRONMENT,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
        "AWS_DEFAULT_REGION": settings.s3_region,
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value})
    try:
        import mlflow
        import mlflow.lightgbm

        mlflow.set_tracking_uri(uri)
        yield mlflow
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def tracking_uri(settings: Settings, application_name: str) -> str:
    """Return MLflow's address; its PostgreSQL connections get the limits and name of our own.

    Args:
        settings: The address as configured, and the limits.
        application_name: Name that the server lists for the connections.
    """
    # A hanging MLflow database must time out like our own connections.
    uri = settings.mlflow_tracking_uri.get_secret_value()
    if not uri.startswith("postgresql"):
        return uri
    from sqlalchemy.engine import make_url

    limits = conninfo(settings, application_name)
    names = ("application_name", "connect_timeout", "options")
    url = make_url(uri).update_query_dict({name: str(limits[name]) for name in names})
    return url.render_as_string(hide_password=False)


def _warn(settings: Settings, model: str, error: Exception) -> str:
    """Log why MLflow does not show a model; return the reason."""
    password = urlsplit(settings.mlflow_tracking_uri.get_secret_value()).password or "\0"
    reason = f"{type(error).__name__}: {error}".replace(password, "***")
    # A driver's message may contain the address with its password.
    reason = reason.splitlines()[0][:_REASON_LENGTH]
    logger.warning(
        "MLflow does not show %s yet (%s); the warehouse has it, `sync_mlflow` tries again.",
        model,
        reason,
    )
    return reason
