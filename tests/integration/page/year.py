"""Fill a warehouse with a year of nights of many models: everything that the page reads.

The year looks like one: quality and drift follow the seasons, February has a storm, and single days
were late, scored by a lower step, published again or never. Model ``model_00`` has names and texts
that would break out of HTML if anything forgot to escape them.
"""

from __future__ import annotations

import datetime as dt
import json
from zoneinfo import ZoneInfo

import numpy as np

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import operating_timezone
from nightshift.quality.sketches.number_sketch import NumberSketch

HOSTILE = "<script>alert('x')</script> & \"quoted\" ' model"
HOSTILE_LEVEL = "N1'; drop table x;--<b onmouseover=alert(1)>"
METRICS = ("roc_auc", "log_loss", "brier", "calibration_error", "calibration_slope", "f1")
RAW = ("weather", "orders", "shops")
EDGES = tuple(float(edge) for edge in range(-4, 5))


def fill_year(conn, n_models=50, n_days=365, n_features=40, last=None):
    """Fill an empty, migrated warehouse; returns the last day.

    Args:
        conn: A connection of the warehouse's owner.
        n_models: Models; the first has hostile texts.
        n_days: Nights.
        n_features: Features of each model.
        last: Last partition; ``newest_day()`` by default.
    """
    last = last or newest_day()
    first = last - dt.timedelta(days=n_days - 1)
    for number in range(n_models):
        _keep_spec(conn, number)
    for statement in _STATEMENTS:
        conn.execute(
            statement,
            {
                "first": first,
                "last": last,
                "features": n_features,
                "metrics": list(METRICS),
                "raw": list(RAW),
                "hostile_level": HOSTILE_LEVEL,
                "zone": operating_timezone(),
            },
        )
    _keep_profiles(conn, last)
    conn.execute("analyze")
    return last


def newest_day():
    """Return the day after which the calendar has no hole, at whatever hour the tests run.

    Its predictions come at 01:00 of the next morning and its deadline is at 04:00. At 02:00 the
    next day takes over: a run that began before has two hours until that deadline.
    """
    local_now = dt.datetime.now(ZoneInfo(operating_timezone()))
    return (local_now - dt.timedelta(hours=2)).date() - dt.timedelta(days=1)


def name_of(number):
    """Return the name of a model."""
    return f"model_{number:02d}"


def _keep_spec(conn, number):
    """Store a spec as migrate does; the columns come from the page's own migration."""
    description = HOSTILE if number == 0 else f"Will order {number} be late?"
    spec = ModelSpec.model_validate(
        {
            "name": name_of(number),
            "description": description,
            "task": "binary",
            "owner": f"team-{number % 7}",
            "runbook": "docs/runbooks/README.md",
            "deadline": "04:00",
            "entity": {"name": "order", "key": "order_id"},
            "event_timestamp": "event_timestamp",
            "feature_view": name_of(number),
            "features": {"numeric": ["feature_00"]},
            "label": {"relation": "fct_labels", "column": "is_late", "maturity_days": 1},
            "training": {"schedule": "weekly", "window_days": 60, "minimum_days": 50},
            "promotion": {"metric": "roc_auc"},
            "scoring": {"fallback": {"feature": "rate_7d", "default": 0.3}},
            "monitoring": {
                "metric": "log_loss",
                "maximum_metric_loss": 0.15,
                "windows": {"n": 2, "m": 3},
            },
        }
    )
    conn.execute(
        "insert into ops.last_good_specs (model, digest, spec, timezone) values (%s, %s, %s, %s)",
        [spec.name, spec.digest, spec.model_dump_json(), operating_timezone()],
    )


def reference_document(n_features):
    """Return the part of ``model.json`` that the page reads."""
    shares = [0.002, 0.021, 0.136, 0.341, 0.341, 0.136, 0.021, 0.002, 0.0, 0.0]
    numeric = {"edges": list(EDGES), "shares": shares, "missing_share": 0.01, "mean": -0.4, "n": 9}
    names = [f"feature_{index:02d}" for index in range(n_features)]
    document = {"numeric": dict.fromkeys(names, numeric), "categorical": {}, "score": numeric}
    return json.dumps({"reference": document}).encode()


def _keep_profiles(conn, last):
    random = np.random.default_rng(7)
    for number in range(3):
        sketch = NumberSketch()
        values = random.normal(0.3, 1.1, 4000)
        values[:80] = np.nan
        sketch.add(values)
        conn.execute(
            """
            insert into monitoring.profiles (dataset, partition_date, load_id, place, column_name,
                kind, n_rows, n_missing, minimum, maximum, mean, std, n_distinct, sketch, run_id)
            select dataset, partition_date, load_id, 0, 'feature_00', 'number', %s, %s, %s, %s, %s,
                %s, %s, %s, 'test'
            from ops.published where dataset = %s and partition_date = %s
            """,
            [
                sketch.n_rows,
                sketch.n_missing,
                sketch.minimum,
                sketch.maximum,
                sketch.mean,
                sketch.std,
                sketch.n_distinct,
                sketch.as_bytes(),
                f"features/{name_of(number)}",
                last,
            ],
        )


# Days from the first one decide what is odd: 40 late, 90 fallback, 120 published twice, 200 a hole.
_STATEMENTS = (
    """
    create temporary table days as
    select day::date as day, row_number() over (order by day) - 1 as i
    from generate_series(%(first)s::timestamp, %(last)s, interval '1 day') day
    """,
    """
    create temporary table datasets as
    select 'raw/' || name as dataset, 20000 as base, null as model
    from unnest(%(raw)s::text[]) name
    union all select 'features/' || model, 4000, model from ops.last_good_specs
    union all select 'predictions/' || model, 4000, model from ops.last_good_specs
    union all select 'monitoring/' || model, 1, model from ops.last_good_specs
    union all select 'monitoring_drift/' || model, 40, model from ops.last_good_specs
    union all select 'monitoring_estimates/' || model, 2, model from ops.last_good_specs
    union all select 'monitoring_faults/' || model, 2, model from ops.last_good_specs
    union all select 'monitoring_performance/' || model, 40, model from ops.last_good_specs
    """,
    """
    create temporary table loads as
    select
        d.dataset, days.day, days.i, n.load_number, d.model,
        dense_rank() over (order by days.day, d.dataset, n.load_number) as load_id,
        (d.base * (1 + 0.2 * sin(days.i / 7.0) + 0.05 * sin(days.i * 1.7))
            * case when days.i = 150 then 0.2 else 1 end)::bigint as n_rows,
        (days.day + 1 + interval '35 minutes' + interval '9 minutes' * case
            when d.dataset like 'raw/%%' then 0 when d.dataset like 'features/%%' then 1
            when d.dataset like 'predictions/%%' then 2 else 3 end
            + interval '1 second' * (hashtext(d.dataset || days.i) %% 200)
            + case when days.i = 40 and d.dataset like 'predictions/%%' then interval '5 hours'
                else interval '0' end
            + interval '6 hours' * (n.load_number - 1)) at time zone %(zone)s as at
    from datasets d cross join days
    cross join lateral generate_series(
        1, case when days.i = 120 and d.dataset like 'predictions/%%' then 2 else 1 end
    ) n (load_number)
    where not (days.i = 200 and d.model in ('model_00', 'model_01') and d.dataset like 'pred%%')
    """,
    """
    insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt, actor,
        code_version, inputs, inputs_digest, known_at, n_rows, content_hash, detail, started_at,
        published_at)
    select dataset, day, load_id, load_number, 'published', 'night/' || day, 1, 'airflow', 'test',
        '{}', 'test', case when dataset like 'raw/%%' then at - interval '40 minutes' end, n_rows,
        'hash', case when dataset like 'predictions/%%' then jsonb_build_object('score_sources',
            jsonb_build_object(day::text, case
                when i in (90, 91) then 'fallback_rule' when i = 92 then 'previous_champion'
                else 'champion' end)) else '{}' end,
        at - interval '4 minutes', at
    from loads
    """,
    """
    insert into ops.published (dataset, partition_date, load_id, token, published_at)
    select distinct on (dataset, day) dataset, day, load_id, load_number, at
    from loads order by dataset, day, load_number desc
    """,
    """
    insert into ops.ledger (at, dataset, partition_date, load_id, event, token, run_id, actor,
        n_rows)
    select at, dataset, day, load_id, 'published', load_number, 'night/' || day, 'airflow', n_rows
    from loads order by at
    """,
    """
    insert into ops.task_tries
    select t.dag, 'night/' || days.day, t.task, -1, 1, days.day,
        (days.day + 1 + t.start) at time zone %(zone)s,
        (days.day + 1 + t.start + t.work) at time zone %(zone)s,
        case when days.i = 90 and t.task = 'score_shard' then 'NS-MODEL-001' else 'success' end
    from days cross join (
        values ('ingest', 'load_weather', interval '31 minutes', interval '3 minutes'),
            ('ingest', 'load_orders', interval '31 minutes', interval '5 minutes'),
            ('ingest', 'load_shops', interval '31 minutes', interval '1 minute'),
            ('ingest', 'announce_raw', interval '37 minutes', interval '20 seconds'),
            ('transform', 'build', interval '38 minutes', interval '6 minutes')
    ) t (dag, task, start, work)
    """,
    """
    insert into ops.task_tries
    select 'score__' || s.model, 'night/' || days.day, t.task, -1, 1, days.day,
        (days.day + 1 + t.start) at time zone %(zone)s,
        (days.day + 1 + t.start + t.work) at time zone %(zone)s, 'success'
    from days cross join ops.last_good_specs s cross join (
        values ('begin', interval '45 minutes', interval '20 seconds'),
            ('score_shard', interval '46 minutes', interval '4 minutes'),
            ('publish', interval '51 minutes', interval '2 minutes')
    ) t (task, start, work)
    """,
    """
    insert into ml.training_sets
    select 'training/' || s.model, s.model, min(days.day), now(), min(days.day), max(days.day), 9,
        'sha', 'spec', 'test', '{}', 'test'
    from ops.last_good_specs s cross join days group by s.model
    """,
    """
    insert into ml.model_versions (model, version, digest, model_key, model_sha256, metadata_key,
        metadata_sha256, trees_sha256, training_set, partition_date, fit_end, spec_digest,
        code_version, metrics, figures, run_id, created_at, importance)
    select s.model, days.i / 7 + 1, s.model || days.i, 'models/m', 'sha', 'models/reference.json',
        'sha', 'sha', 'training/' || s.model, days.day, days.day - 1, 'spec', 'test',
        '{"challenger": {"roc_auc": 0.71}}', '{}', 'test', days.day + interval '1 day 3 hours',
        (
            select jsonb_object_agg('feature_' || lpad(f::text, 2, '0'), size / total)
            from (
                select f, size, sum(size) over () as total
                from generate_series(0, %(features)s - 1) f
                cross join lateral (
                    select exp(-0.2 * f) * (1 + 0.6 * sin(days.i / 40.0 + f)) as size
                ) s
            ) sizes
        )
    from ops.last_good_specs s cross join days where days.i %% 7 = 0
    """,
    """
    insert into ml.promotions (at, model, version, verdict, champion_version, partition_date,
        effective_partition, reasons, numbers, run_id, actor, evidence_page)
    select v.created_at, v.model, v.version,
        case when v.version = 1 then 'first'
            when (v.version + length(v.model)) %% 4 = 0 then 'promoted'
            when (v.version + length(v.model)) %% 4 = 1 then 'shadowed'
            else 'refused' end,
        nullif(1, v.version), v.partition_date, v.partition_date + 1,
        array['roc_auc gains 0.004 (95 %% interval 0.001 to 0.007).'], '{}', 'test', 'airflow',
        'evidence/' || v.model || '/' || v.version || '.html'
    from ml.model_versions v order by v.created_at, v.model
    """,
    """
    insert into monitoring.drift (partition_date, load_id, model, feature, kind, model_version,
        missing_share, reference_missing_share, mean, reference_mean, n_rows, distance, statistic,
        value, usual, usual_variation, n_nights, is_drifted)
    select d.day, d.load_id, d.model, 'feature_' || lpad(d.f::text, 2, '0'),
        case when d.f %% 8 = 7 then 'categorical' else 'numeric' end, 1, 0.01, 0.01,
        sin(d.i / 58.0), 0, 4000, d.distance, 'mean', sin(d.i / 58.0), 0.1, 0.4, 60,
        d.distance > 4
    from (
        select days.day, days.i, l.load_id, s.model, f,
            0.6 * exp(1.1 * sin(days.i / 58.0 + f) + 0.6 * sin(days.i * 12.9898 + f * 78.233))
                * case when f < 6 and (days.i between 38 and 41 or days.i between 330 and 333)
                    then 6 else 1 end as distance
        from ops.last_good_specs s cross join days
        cross join generate_series(0, %(features)s - 1) f
        join ops.published l on l.dataset = 'monitoring_drift/' || s.model
            and l.partition_date = days.day
    ) d
    -- As the write path writes them: the rows of a night and model lie together.
    order by d.day, d.model, d.f
    """,
    """
    update monitoring.drift set slow_evidence = 0.05 * (partition_date - %(last)s::date + 25),
        slow_statistic = 'mean', slow_shift = 1.4, is_slow = partition_date > %(last)s::date - 6,
        slow_since = case when partition_date > %(last)s::date - 6 then %(last)s::date - 24 end
    where feature in ('feature_02', 'feature_07') and partition_date > %(last)s::date - 25
    """,
    """
    insert into monitoring.estimates (partition_date, load_id, model, model_version, span, metric,
        estimate, low, high, n_calibration)
    select days.day, l.load_id, s.model, 1, 'night', 'log_loss',
        0.48 * (1 + 0.05 * sin(days.i / 58.0)),
        0.43 * (1 + 0.05 * sin(days.i / 58.0)), 0.53 * (1 + 0.05 * sin(days.i / 58.0)), 40
    from ops.last_good_specs s cross join days
    join ops.published l on l.dataset = 'monitoring_estimates/' || s.model
        and l.partition_date = days.day
    """,
    """
    insert into monitoring.column_faults (partition_date, load_id, model, model_version, feature,
        kind, distance, detail, since, feeds)
    select l.partition_date, l.load_id, s.model, 1, 'feature_03', 'frozen', 9,
        'the values of the night before', l.partition_date, array['raw/weather']
    from ops.last_good_specs s
    join ops.published l on l.dataset = 'monitoring_faults/' || s.model
        and l.partition_date = %(last)s - 20
    """,
    """
    insert into monitoring.performance
    select days.day, l.load_id, s.model, days.day - 2, slices.slice_name, slices.slice_value,
        metric, case metric when 'roc_auc' then 0.72 when 'log_loss' then 0.48 when 'brier' then
            0.155 when 'calibration_slope' then 0.98 when 'calibration_error' then 0.02 else 0.4 end
            * (1 + 0.05 * sin(days.i / 58.0) + 0.02 * sin(days.i * 12.9898)
                + case when days.i between 39 and 42 then 0.15 else 0 end),
        case metric when 'roc_auc' then 0.61 when 'log_loss' then 0.56 when 'brier' then 0.18
            when 'calibration_slope' then 0.9 when 'calibration_error' then 0.05 else 0.3 end
            * (1 + 0.05 * sin(days.i / 58.0)),
        3900, 1, 'mature'
    from ops.last_good_specs s cross join days cross join unnest(%(metrics)s::text[]) metric
    cross join lateral (
        select 'all' as slice_name, 'all' as slice_value
        union all select 'shop', 'S' || g from generate_series(1, 8) g
        union all select 'region', %(hostile_level)s where s.model = 'model_00'
    ) slices
    join ops.published l on l.dataset = 'monitoring_performance/' || s.model
        and l.partition_date = days.day
    """,
    """
    update monitoring.performance set low = value * 0.97, high = value * 1.03
    where slice_name = 'all' or metric = 'roc_auc'
    """,
    """
    insert into ops.score_levels (dataset, partition_date, load_id, model_version, shift, estimate,
        n_nights, n_rows, first_night, last_night, reason, evidence, model_digest, features_hash,
        spec_digest, run_id, seconds)
    select dataset, partition_date, load_id, 1, 0.2 * sin(partition_date - date '2020-01-01'),
        0.25 * sin(partition_date - date '2020-01-01'), 14, 54000, partition_date - 16,
        partition_date - 2, null, 'e', 'd', 'f', 's', 'year', 0.1
    from ops.published where dataset like 'predictions/%%'
    """,
    """
    insert into monitoring.verdicts (partition_date, load_id, model, model_version, drift_status,
        score_drift_status, performance_status, n_features, n_drifted, score_distance, metric,
        metric_value, metric_baseline, n_labels, evaluated_partition, breached_days, in_cooldown,
        has_triggered, reasons)
    select days.day, l.load_id, s.model, 1, case when days.i between 38 and 41 then 'breached'
        else 'ok' end, 'ok', 'ok', %(features)s, 2, 0.05, 'log_loss', 0.48, 0.56, 3900,
        days.day - 2, '{}', false, false, jsonb_build_array('2 of the features drifted.')
    from ops.last_good_specs s cross join days
    join ops.published l on l.dataset = 'monitoring/' || s.model and l.partition_date = days.day
    """,
    """
    insert into quarantine.refused_rows (dataset, partition_date, load_id, known_at, source_uri,
        source_sha256, source_row, reason, column_name, delivered, row_digest)
    select name, days.day, 1, now(), 's3://bucket/x', 'sha', g, 'is no number', 'wind',
        '{"wind": "a secret value"}', name || days.i || g
    from unnest(%(raw)s::text[]) name cross join days cross join generate_series(1, 3) g
    where days.i %% 9 = 0
    """,
)
