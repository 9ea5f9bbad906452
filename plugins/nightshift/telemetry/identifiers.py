"""Identifiers of traces, spans and lineage runs: functions of what they name, never random.

Whoever knows the deployment and the partition knows the trace id, so that all DAGs of a night join
one trace without passing anything on, and sending again gives the same spans.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.settings import Settings

# Sizes of W3C Trace Context.
_TRACE_BYTES, _SPAN_BYTES = 16, 8
WITHHELD = "withheld"
"""Stands for a text that is not the name of something that the project declares."""
# A dataset has one slash; a path of a machine has a leading one, or more.
_NAME = re.compile(r"(load/)?[A-Za-z0-9_.\-]{1,100}(/[A-Za-z0-9_.\-]{1,100})?")
_WORD = re.compile(r"[a-z][a-z_]{0,39}")
_ERROR = re.compile(r"NS-[A-Z]+-\d{3}|[A-Za-z_][A-Za-z0-9_]{0,79}")
# What Airflow itself calls runs; a person may type anything, for example a name.
_RUN_ID = re.compile(
    r"(scheduled|manual|backfill|asset_triggered|asset_materialization)__"
    r"\d{4}-\d\d-\d\d(T[\d:.]+(\+\d\d:\d\d|Z)?)?(_{1,2}[A-Za-z0-9]{1,12})?"
)
_LINEAGE_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "nightshift/lineage")


def deployment_of(settings: Settings) -> str:
    """Return what tells this deployment's traces from those of others at the same receiver."""
    return f"{settings.telemetry_name}/{settings.warehouse_database}"


def trace_id(deployment: str, day: dt.date) -> int:
    """Return the id of a partition's trace: 16 bytes of a digest, never 0."""
    return _number(f"nightshift trace {deployment} {day.isoformat()}", _TRACE_BYTES)


def span_id(trace: int, key: str) -> int:
    """Return the id of a span by what it is about: 8 bytes of a digest, never 0."""
    return _number(f"nightshift span {trace:032x} {key}", _SPAN_BYTES)


def lineage_run_id(deployment: str, key: str) -> str:
    """Return the run id of a lineage event: a UUID of the deployment and the key."""
    return str(uuid.uuid5(_LINEAGE_NAMESPACE, f"{deployment} {key}"))


def run_digest(dag_run_id: str) -> str:
    """Return how ``task_identity`` shortens a run: the end of ``ops.loads.run_id``."""
    return sha256(dag_run_id.encode()).hexdigest()[:6]


def declared_name(text: str) -> str:
    """Return a name of a dataset, model, DAG or task; what cannot be one is withheld."""
    return text if _NAME.fullmatch(text) else WITHHELD


def declared_word(text: str) -> str:
    """Return a word of ours, such as a verdict or the name of a stage."""
    return text if _WORD.fullmatch(text) else WITHHELD


def error_name(text: str) -> str:
    """Return the code or the class of an error, or the word of an outcome."""
    return text if _ERROR.fullmatch(text) else WITHHELD


def airflow_run_id(text: str) -> str:
    """Return a run id that Airflow made; one that a person typed is withheld."""
    return text if _RUN_ID.fullmatch(text) else WITHHELD


def _number(text: str, n_bytes: int) -> int:
    # 0 is no valid id; no digest that anybody will see is 0.
    return int.from_bytes(sha256(text.encode()).digest()[:n_bytes]) or 1
