"""An evaluation of fifty models over a year of nights takes seconds."""

from __future__ import annotations

import datetime as dt
import shutil
import time

import pytest
import yaml
from tests.conftest import write_suite
from tests.integration.page.year import newest_day

from nightshift.contracts.model_spec import load_specs
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.records import open_incidents, read_health
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse.relations.view_contracts import prediction_views

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

N_MODELS, N_DAYS, N_VIEWS = 50, 365, 10
MAX_SECONDS = 5.0
LAYERS = ("predictions", "monitoring", "monitoring_drift", "monitoring_performance")
LOADS = """
insert into ops.loads (
    dataset, partition_date, load_id, token, state, run_id, attempt, actor, code_version, inputs,
    inputs_digest, known_at, n_rows, content_hash, published_at
)
select dataset, day, row_number() over (), 1, 'published', 'r', 1, 'airflow', 'c',
    case when dataset like 'features/%%' then '{"raw/weather": "x"}'::jsonb else '{}' end,
    'i', day, 10, 'h', day + interval '30 hours'
from unnest(%s::text[]) dataset,
    generate_series(%s::date, %s::date, interval '1 day') day
"""


@pytest.fixture
def year(settings, conn, tmp_path) -> Settings:
    """Return settings of a warehouse with a year of nights of fifty models, ten rows each."""
    dags = tmp_path / "dags"
    shutil.copytree(PROJECT_ROOT / "dags" / "datasets", dags / "datasets")
    (dags / "models").mkdir()
    document = yaml.safe_load((PROJECT_ROOT / "dags/models/flight_delayed.yaml").read_text())
    models = [f"m{number:02d}" for number in range(N_MODELS)]
    for number, model in enumerate(models):
        document |= {"name": model, "feature_view": f"v{number % N_VIEWS}"}
        (dags / "models" / f"{model}.yaml").write_text(yaml.safe_dump(document))
    raw = [f"raw/{path.stem}" for path in (dags / "datasets").glob("*.yaml")]
    views = [f"features/v{number}" for number in range(N_VIEWS)]
    datasets = raw + views + [f"{layer}/{model}" for layer in LAYERS for model in models]
    last = newest_day()
    conn.execute(LOADS, [datasets, last - dt.timedelta(days=N_DAYS - 1), last])
    conn.execute(
        "insert into ops.published"
        " select dataset, partition_date, load_id, 1, published_at from ops.loads"
    )
    for dataset in raw + views + [f"predictions/{model}" for model in models]:
        layer, _, name = dataset.partition("/")
        table = f"{layer}.{'feat_' if layer == 'features' else ''}{name}"
        conn.execute(f"drop table if exists {table} cascade".encode())
        conn.execute(
            f"create table {table} as select partition_date, load_id, n as id,"
            " 'champion' as score_source, ''::text as score_source_reason, 1 as model_version"
            f" from ops.published, generate_series(1, 10) n where dataset = '{dataset}'".encode()
        )
        conn.execute(f"create index on {table} (partition_date, load_id)".encode())
    for spec in load_specs(dags / "models").values():
        for suffix in prediction_views(spec):
            conn.execute(f"create view analytics.{spec.name}_{suffix} as select 1 as n".encode())
    for dataset in raw + views + [f"predictions/{model}" for model in models]:
        write_suite(tmp_path / "expectations", dataset)
    conn.execute("analyze")
    ObjectStore.open(settings).ensure_bucket()
    folders = {"dags_dir": dags, "expectations_dir": tmp_path / "expectations"}
    return Settings(**(dict(settings) | folders))


def test_a_year_of_fifty_models_is_evaluated_within_seconds_and_nothing_is_broken(
    year, conn, record_figure
):
    # The first evaluation of a process reads fifty specs; a watch goes on with them.
    assert evaluate(year).failed_rules == ()
    assert open_incidents(conn) == []
    conn.execute("delete from ops.incident_rules")
    evaluation = evaluate(year)
    started = time.monotonic()
    health = read_health(conn)
    record_figure("seconds of an evaluation of 50 models x 365 nights", evaluation.seconds)
    record_figure("seconds of ops.health", time.monotonic() - started)
    assert len(health) >= 2 * N_MODELS
    assert {entry.health for entry in health} == {"healthy"}
    assert evaluation.seconds < MAX_SECONDS

    # One model's newest partitions vanish from a year of nights: the deadline of the last one may
    # be ahead, at this hour, but not that of the one before.
    conn.execute(
        "delete from ops.published where dataset = 'predictions/m07' and partition_date >="
        " (select max(partition_date) - 1 from ops.published)"
    )
    evaluate(year)
    (incident,) = [each for each in open_incidents(conn) if each.kind == "late predictions"]
    assert incident.subject == "m07"
