-- What the monitor measured each night. Written by the write path: readers follow ops.published of monitoring/<model> and its two siblings.
create table monitoring.performance (
    partition_date date not null,
    load_id bigint not null,
    model text not null,
    evaluated_partition date not null,
    slice_name text not null,
    slice_value text not null,
    metric text not null,
    value double precision,
    baseline_value double precision,
    n_labels bigint not null,
    model_version integer,
    primary key (model, partition_date, load_id, slice_name, slice_value, metric)
);
comment on table monitoring.performance is 'Published predictions against their matured outcomes, beside the rule baseline on the same rows. Grain: model, night, load, slice and metric.';
comment on column monitoring.performance.partition_date is 'The night that measured; the outcomes are what that night knew.';
comment on column monitoring.performance.evaluated_partition is 'The night that made the predictions.';
comment on column monitoring.performance.slice_name is 'Column of the slice, all for all rows.';
comment on column monitoring.performance.baseline_value is 'The metric of the fallback rule on the same rows.';
comment on column monitoring.performance.model_version is 'Version that made the predictions; null for the fallback rule.';

create table monitoring.drift (
    partition_date date not null,
    load_id bigint not null,
    model text not null,
    feature text not null,
    kind text not null check (kind in ('numeric', 'categorical', 'score')),
    model_version integer not null,
    psi double precision not null,
    psi_noise double precision not null,
    effect double precision not null,
    missing_share double precision not null,
    reference_missing_share double precision not null,
    mean double precision,
    reference_mean double precision,
    n_rows bigint not null,
    is_drifted boolean not null,
    primary key (model, partition_date, load_id, kind, feature)
);
comment on table monitoring.drift is 'All rows of a partition against the rows the champion was trained on. Grain: model, night, load and feature.';
comment on column monitoring.drift.psi is 'Population stability index over bins or levels, missing values being one of them.';
comment on column monitoring.drift.psi_noise is 'Value that the index exceeded in one of twenty nights of the training set itself; drifted means above this and above the threshold.';
comment on column monitoring.drift.effect is 'Largest difference of the cumulated shares (Kolmogorov-Smirnov) of numbers, total variation distance of levels; 0 to 1.';

create table monitoring.verdicts (
    partition_date date not null,
    load_id bigint not null,
    model text not null,
    model_version integer,
    drift_status text not null check (drift_status in ('ok', 'breached', 'unknown')),
    score_drift_status text not null check (score_drift_status in ('ok', 'breached', 'unknown')),
    performance_status text not null check (performance_status in ('ok', 'breached', 'unknown')),
    n_features bigint not null,
    n_drifted bigint not null,
    score_psi double precision,
    metric text not null,
    metric_value double precision,
    metric_baseline double precision,
    metric_expected double precision,
    n_labels bigint not null,
    evaluated_partition date not null,
    breached_days jsonb not null,
    in_cooldown boolean not null,
    has_triggered boolean not null,
    reasons jsonb not null,
    report_key text,
    primary key (model, partition_date, load_id)
);
comment on table monitoring.verdicts is 'Whether the evidence asks for a retraining. Grain: model, night and load. A triggered night has a row in monitoring.retrain_decisions.';
comment on column monitoring.verdicts.metric_expected is 'The metric on the hold-out of the version that made the predictions.';
comment on column monitoring.verdicts.breached_days is 'Per condition, the days of the window on which it held for this champion.';
comment on column monitoring.verdicts.report_key is 'Object key of the HTML report; null when it could not be made, reasons says why.';

create view monitoring.performance_published as
select
    t.model,
    t.evaluated_partition as partition_date,
    t.partition_date as measured_on,
    t.slice_name,
    t.slice_value,
    t.metric,
    t.value,
    t.baseline_value,
    t.n_labels,
    t.model_version
from monitoring.performance t
join ops.published p on p.dataset = 'monitoring_performance/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
comment on view monitoring.performance_published is 'How good the predictions of a night turned out. Grain: model, night that predicted, slice and metric.';

create view monitoring.drift_published as
select t.* from monitoring.drift t
join ops.published p on p.dataset = 'monitoring_drift/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
comment on view monitoring.drift_published is 'How far the features and scores of a night are from the training set. Grain: model, night and feature.';

create view monitoring.verdicts_published as
select t.*, d.decision_id, d.state as decision_state from monitoring.verdicts t
join ops.published p on p.dataset = 'monitoring/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id
left join monitoring.retrain_decisions d on t.has_triggered and d.model = t.model and d.partition_date = t.partition_date;
comment on view monitoring.verdicts_published is 'The verdict of a night, and the decision that it opened. Grain: model and night.';
