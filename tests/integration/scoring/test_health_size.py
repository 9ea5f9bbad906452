"""analytics.health of a year of fifty models answers at once."""

from __future__ import annotations

import datetime as dt
import time

import psutil
import pytest
from tests.integration.scoring.test_analysts_views import create_shared_views

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

N_MODELS, N_DAYS, N_ROWS, N_REPEATS = 50, 365, 1000, 10
MAX_SECONDS = 0.05
LAST = dt.date(2026, 6, 30)
FILL = (
    """
    insert into ops.analytics_models (model, description, task, owner, runbook, deadline, timezone,
        entity, predictions_dataset, features_dataset)
    select m, 'd', 'binary', 'o', 'r', '04:00', 'Europe/Berlin', 'order', 'predictions/' || m,
        'features/' || m
    from (select 'm' || i as m from generate_series(1, %(n_models)s) i) models
    """,
    """
    insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt, actor,
        code_version, inputs, inputs_digest, known_at, n_rows, content_hash, published_at)
    select dataset, day, row_number() over (order by day), 1, 'published', 'r', 1, 'airflow', 'c',
        '{}', 'i', day, %(n_rows)s, 'h', day + interval '30 hours'
    from (
        select predictions_dataset as dataset from ops.analytics_models
        union all select features_dataset from ops.analytics_models
    ) datasets, generate_series(%(last)s - %(n_days)s + 1, %(last)s::timestamp, '1 day') day
    """,
    """
    insert into ops.published
    select dataset, partition_date, load_id, 1, published_at from ops.loads
    """,
)
# The columns that the view reads, and what makes a row of predictions as wide as it is.
TABLE = """
create table predictions.{model} as
select partition_date, load_id, 'e' || i as entity_id, 'champion'::text as score_source,
    published_at as features_as_of, repeat('reasons', 60) as reasons
from ops.published, generate_series(1, {n_rows}) i
where dataset = 'predictions/{model}' and partition_date = date '{last}'
"""


def test_health_of_a_year_of_fifty_models_takes_fifty_milliseconds(conn, record_figure):
    values = {"n_models": N_MODELS, "n_days": N_DAYS, "n_rows": N_ROWS, "last": LAST}
    for statement in FILL:
        conn.execute(statement, values)
    for number in range(1, N_MODELS + 1):
        table = TABLE.format(model=f"m{number}", n_rows=N_ROWS, last=LAST)
        conn.execute(table.encode())
        index = f"alter table predictions.m{number} add primary key (load_id, entity_id)"
        conn.execute(index.encode())
    conn.execute("analyze")
    create_shared_views(conn)
    rows = conn.execute(
        "select n_by_champion, n_entities from (select *, rows_by_source ->"
        " 'champion' as n_by_champion from analytics.health) health"
    ).fetchall()
    assert rows == [(N_ROWS, N_ROWS)] * N_MODELS

    # Processor seconds of the server: a busy machine changes them little.
    backend = psutil.Process(conn.info.backend_pid)
    used_before, started = used(backend), time.perf_counter()
    for _ in range(N_REPEATS):
        conn.execute("select * from analytics.health").fetchall()
    seconds = (used(backend) - used_before) / N_REPEATS
    record_figure("seconds of analytics.health", (time.perf_counter() - started) / N_REPEATS)
    record_figure("processor seconds of analytics.health", seconds)
    assert seconds < MAX_SECONDS


def used(process):
    times = process.cpu_times()
    return times.user + times.system
