"""One component of the running night really breaks: a whole partition stands before the deadline,
and the champion's after the repair."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.chaos.scheduler.disturbance import (
    contents,
    end_of,
    eventually,
    instance,
    log_of,
    start,
    unpublished,
    wait_until_quiet,
)
from tests.raw_bucket import s3_client
from tests.whole_night import NIGHT, Whole

from nightshift.warehouse.connection import connect

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.timeout(1500, func_only=True),
]

MODELS = ("arrival_delay_minutes", "flight_delayed")
PREDICTIONS = tuple(f"predictions/{model}" for model in MODELS)
FEATURES, SCHEDULES = "features/flight", "raw/flight_schedules"
CHAMPION, PAST, RULE = "champion", "carried_over", "fallback_rule"

_HOOK = """
import os, signal, types
def _crash(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSEGV)
def _fail(*args, **kwargs):
    raise RuntimeError("broken on purpose")
"""
_GATE = _HOOK + "from nightshift.quality import gates\ngates.evaluate_by_great_expectations = {}\n"
_REPORT = (
    _HOOK
    + "from nightshift.monitoring import report\nreport.DEADLINE_SECONDS = 3\n"
    + "report.sys = types.SimpleNamespace(executable={!r})\n"
)


@dataclass(frozen=True)
class Break:
    """What breaks, and how the night shows it.

    Attributes:
        vanish: What readers had and must get back.
        dag_id: The DAG that meets the fault.
        task_id: Its task that fails.
        fault: Puts the fault in, as long as the block lasts.
        in_log: What the failed task's log must name.
    """

    vanish: tuple[str, ...]
    dag_id: str
    task_id: str
    fault: Callable[[Whole, Path], AbstractContextManager[None]]
    in_log: str


def code(text: str) -> Callable[[Whole, Path], AbstractContextManager[None]]:
    """Return a fault that every task of the night gets with its DAG file."""
    return lambda whole, _: whole.inject(text)


@contextmanager
def dbt_model_raises(whole: Whole, folder: Path) -> Iterator[None]:
    """Let every task use a copy of the dbt project in which PostgreSQL refuses one model."""
    project = folder / "dbt_project"
    shutil.copytree(
        whole.settings.dbt_project_dir, project, ignore=shutil.ignore_patterns("target", "logs")
    )
    model = next(path for path in project.rglob("*.sql") if path.stem == "feat_flight")
    model.write_text(model.read_text() + "\n-- broken on purpose\nwhere 1 / 0 = 1\n")
    with whole.inject(f"import os\nos.environ['NIGHTSHIFT_DBT_PROJECT_DIR'] = {str(project)!r}\n"):
        yield


@contextmanager
def drop_is_damaged(whole: Whole, _: Path) -> Iterator[None]:
    """Flip a byte of the night's schedule in the bucket."""
    client, bucket = s3_client(whole.settings), whole.settings.s3_bucket
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"landing/flight_schedules/dt={NIGHT}/")[
        "Contents"
    ]
    key = next(one["Key"] for one in found if not one["Key"].endswith(".json"))
    whole_body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    damaged = bytearray(whole_body)
    damaged[len(damaged) // 2] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(damaged))
    try:
        yield
    finally:
        client.put_object(Bucket=bucket, Key=key, Body=whole_body)


BREAKS = {
    "source: the drop is damaged": Break(
        (SCHEDULES, FEATURES, *PREDICTIONS),
        "ingest",
        "load_flight_schedules",
        drop_is_damaged,
        "NS-CONTRACT-002",
    ),
    "dbt: a model raises": Break(
        (FEATURES, *PREDICTIONS),
        "transform",
        "build_features",
        dbt_model_raises,
        "division by zero",
    ),
    "GX: raises on the features": Break(
        (FEATURES, *PREDICTIONS),
        "transform",
        "build_features",
        code(_GATE.format("_fail")),
        "on purpose",
    ),
    "GX: crashes on the features": Break(
        (FEATURES, *PREDICTIONS),
        "transform",
        "build_features",
        code(_GATE.format("_crash")),
        "SIGSEGV",
    ),
    "GX: crashes on the predictions": Break(
        PREDICTIONS[1:], "score__flight_delayed", "publish", code(_GATE.format("_crash")), "SIGSEGV"
    ),
}


@pytest.mark.promise("R18")
@pytest.mark.parametrize("name", BREAKS)
def test_the_last_step_stands_until_the_repair_when_a_component_breaks(
    whole: Whole, tmp_path: Path, name: str
) -> None:
    """Airflow says which task broke; the rescue publishes every row; after the repair the failed
    run is cleared, and all is as before."""
    broken = BREAKS[name]
    models = [model for model in MODELS if f"predictions/{model}" in broken.vanish]
    with unpublished(whole, *broken.vanish):
        with broken.fault(whole, tmp_path):
            run = start(whole, broken.dag_id)
            assert end_of(whole, run, seconds=400).state == "failed"
            failed = instance(whole, run, broken.task_id)
            assert failed["state"] == "failed"
            assert broken.in_log in log_of(whole, run, broken.task_id, failed["try_number"])
            assert not set(broken.vanish) & set(contents(whole))
            for model in models:
                assert (
                    end_of(whole, start(whole, f"rescue__{model}"), seconds=400).state == "success"
                )
                sources = _sources(whole, model)
                assert sources in ({PAST}, {RULE}, {PAST, RULE})
        whole.api.clear(run)
        assert end_of(whole, run).state == "success"
        eventually(
            lambda: all(_sources(whole, model) == {CHAMPION} for model in models) or None,
            400,
            "the champion's are published",
        )
        wait_until_quiet(whole)


@pytest.mark.promise("R18")
def test_scoring_takes_the_last_step_by_itself_when_the_bucket_cannot_be_reached(
    whole: Whole,
) -> None:
    is_down = (
        "import os\n"
        "os.environ.update(NIGHTSHIFT_S3_ENDPOINT_URL='http://127.0.0.1:9',"
        " NIGHTSHIFT_S3_REQUEST_ATTEMPTS='1')\n"
    )
    with unpublished(whole, "predictions/flight_delayed"):
        with whole.inject(is_down):
            run = start(whole, "score__flight_delayed")
            assert end_of(whole, run).state == "success"
            assert _sources(whole, "flight_delayed") <= {PAST, RULE}
            wait_until_quiet(whole)
        for red in (other for other in whole.api.runs(NIGHT) if other.state == "failed"):
            whole.api.clear(red)  # the monitor cannot do without the bucket
        whole.api.clear(run)
        eventually(
            lambda: _sources(whole, "flight_delayed") == {CHAMPION} or None,
            300,
            "the champion's are published",
        )
        wait_until_quiet(whole)


@pytest.mark.promise("R18")
@pytest.mark.parametrize("program", ["/bin/false", "crash", "hang"])
def test_a_night_is_measured_without_its_report_when_evidently_breaks(
    whole: Whole, tmp_path: Path, program: str
) -> None:
    if program != "/bin/false":
        script = tmp_path / program
        script.write_text(
            "#!/bin/sh\n" + {"crash": "kill -SEGV $$\n", "hang": "exec sleep 600\n"}[program]
        )
        script.chmod(0o755)
        program = str(script)
    with unpublished(whole, "monitoring/flight_delayed"), whole.inject(_REPORT.format(program)):
        _forget_reports(whole)
        run = start(whole, "monitor__flight_delayed")
        assert end_of(whole, run).state == "success"
        assert "NS-MONITOR-002" in log_of(whole, run, "measure")
        wait_until_quiet(whole)


@pytest.mark.promise("R18")
def test_the_champion_scores_on_time_when_training_dies(whole: Whole) -> None:
    dies = _HOOK + "from nightshift.training import pipeline\npipeline.train = _crash\n"
    with unpublished(whole, *PREDICTIONS):
        with whole.inject(dies):
            trained = start(whole, "train__flight_delayed")
            scored = [start(whole, f"score__{model}") for model in MODELS]
            assert {end_of(whole, run).state for run in scored} == {"success"}
            assert {frozenset(_sources(whole, model)) for model in MODELS} == {
                frozenset({CHAMPION})
            }
            assert end_of(whole, trained, seconds=400).state == "failed"
            wait_until_quiet(whole)
        whole.api.clear(trained)
        assert end_of(whole, trained).state == "success"
        wait_until_quiet(whole)


def _forget_reports(whole: Whole) -> None:
    """Delete the night's reports: one that is there is not made again."""
    client, bucket = s3_client(whole.settings), whole.settings.s3_bucket
    for one in client.list_objects_v2(Bucket=bucket, Prefix=f"reports/flight_delayed/{NIGHT}/").get(
        "Contents", []
    ):
        client.delete_object(Bucket=bucket, Key=one["Key"])


def _sources(whole: Whole, model: str) -> set[str]:
    """Return how the night's published rows were made, after looking that they are one whole
    batch: each flight once, a score in each."""
    query = f"""
        select coalesce(array_agg(distinct score_source), '{{}}'),
            count(*) - count(distinct flight_id),
            count(*) filter (where score is null),
            count(*) filter (where (score_source = '{CHAMPION}') <> (score_source_reason is null))
        from analytics.{model}_current where partition_date = %s
    """
    with connect(whole.settings, "test") as conn:
        row = conn.execute(query.encode(), [NIGHT]).fetchone()
    assert row is not None
    assert row[1:] == (0, 0, 0)
    return set(row[0])
