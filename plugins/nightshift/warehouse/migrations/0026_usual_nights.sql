-- The night is the unit of drift: what the monitor compares of a column, beside the profile that it was read off.
alter table monitoring.profiles
add column quantiles double precision[],
add column zero_share double precision,
add column levels jsonb,
add column hashes bytea;
comment on column monitoring.profiles.quantiles is 'Of the numbers, at 5, 25, 50, 75 and 95 percent; null for profiles before this column, whose sketch has them.';
comment on column monitoring.profiles.levels is 'Rows by string, the most frequent ones.';
comment on column monitoring.profiles.hashes is 'Smallest hashes of the distinct values, 8 bytes each: whether two nights hold the same values.';

create table monitoring.column_orders (
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    columns text[] not null,
    above bytea not null,
    primary key (dataset, partition_date, load_id)
);
comment on table monitoring.column_orders is 'How often each column of a load is above each other one, over its first rows. Grain: dataset, partition, load.';
comment on column monitoring.column_orders.above is 'Shares of rows, row by row of a square matrix in the order of the columns, as compressed little-endian float32.';

-- The index of stability is no longer computed; rows of before keep it.
alter table monitoring.drift
alter column psi drop not null,
alter column psi_noise drop not null,
alter column effect drop not null,
add column distance double precision,
add column statistic text,
add column value double precision,
add column usual double precision,
add column usual_variation double precision,
add column n_nights double precision;
comment on table monitoring.drift is 'A night''s columns against the nights that the champion was trained on. Grain: model, night, load and feature.';
comment on column monitoring.drift.psi is 'Population stability index over bins or levels, of verdicts before distance.';
comment on column monitoring.drift.distance is 'How far the statistic that is furthest from usual is from it, in usual variations from night to night; is_drifted means that it exceeds the spec''s drift_limit.';
comment on column monitoring.drift.statistic is 'Which summary of the night that is: mean, std, a quantile (q05 to q95), missing_share or total_variation of the levels.';
comment on column monitoring.drift.value is 'The statistic on this night; usual is its median over the training nights, and usual_variation its standard deviation from night to night.';
comment on column monitoring.drift.n_nights is 'Independent nights that the training nights are worth; few make distances smaller.';

create table monitoring.column_faults (
    partition_date date not null,
    load_id bigint not null,
    model text not null,
    model_version integer,
    feature text not null,
    kind text not null,
    distance double precision not null,
    detail text not null,
    since date not null,
    feeds text[] not null,
    primary key (model, partition_date, load_id, feature)
);
comment on table monitoring.column_faults is 'Columns of a night that a broken feed explains. Grain: model, night, load and feature.';
comment on column monitoring.column_faults.kind is 'missing values, frozen, zeros, constant, vanished level, new level, unit changed, swapped, inconsistent, unknown values, time zone or shifted.';
comment on column monitoring.column_faults.distance is 'How far the column is from what the nights before let expect, in usual steps from night to night.';
comment on column monitoring.column_faults.since is 'First of the consecutive nights on which the column was broken.';
comment on column monitoring.column_faults.feeds is 'Raw datasets behind the column, by its lineage.';

create view monitoring.input_faults as
select t.model, t.partition_date as night, t.feature as "column", t.kind, t.distance, t.detail, t.since, t.feeds, t.model_version
from monitoring.column_faults t
join ops.published p on p.dataset = 'monitoring_faults/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
comment on view monitoring.input_faults is 'Broken columns of published verdicts. Grain: model, night and column.';

create or replace view monitoring.drift_published as
select t.* from monitoring.drift t
join ops.published p on p.dataset = 'monitoring_drift/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
comment on view monitoring.drift_published is 'How far the features and scores of a night are from the training nights. Grain: model, night and feature.';

alter table monitoring.verdicts
add column score_distance double precision,
add column n_faults bigint not null default 0,
add column cause text not null default 'none' check (cause in ('none', 'broken input', 'loss', 'covariate shift', 'shock')),
add column segment text,
add column loss double precision;
comment on column monitoring.verdicts.score_psi is 'Of verdicts before score_distance.';
comment on column monitoring.verdicts.cause is 'What the night''s evidence points at, and so what follows: broken input blocks training and names the feed, loss requests a retraining, covariate shift and a shock are looked at.';
comment on column monitoring.verdicts.segment is 'The slice that explains most of a loss, or the column that explains most of a shift; null without either.';
comment on column monitoring.verdicts.loss is 'By how much the champion''s advantage over the rule fell short of that on its hold-out, in the metric''s unit; null if unknown.';

create or replace view monitoring.verdicts_published as
select
    t.partition_date,
    t.load_id,
    t.model,
    t.model_version,
    t.drift_status,
    t.score_drift_status,
    t.performance_status,
    t.n_features,
    t.n_drifted,
    t.score_psi,
    t.metric,
    t.metric_value,
    t.metric_baseline,
    t.metric_expected,
    t.n_labels,
    t.evaluated_partition,
    t.breached_days,
    t.in_cooldown,
    t.has_triggered,
    t.reasons,
    t.severe_loss_status,
    t.maturity,
    t.n_predictions,
    t.n_never_labelled,
    t.label_share,
    t.is_over_budget,
    t.red_reasons,
    r.report_key,
    r.problem as report_problem,
    d.decision_id,
    d.state as decision_state,
    t.score_distance,
    t.n_faults,
    t.cause,
    t.segment,
    t.loss
from monitoring.verdicts t
join ops.published p on p.dataset = 'monitoring/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id
left join monitoring.reports r on r.model = t.model and r.partition_date = t.partition_date and r.load_id = t.load_id
left join monitoring.retrain_decisions d on t.has_triggered and d.model = t.model and d.partition_date = t.partition_date;

create table monitoring.estimates (
    partition_date date not null,
    load_id bigint not null,
    model text not null,
    model_version integer,
    span text not null check (span in ('night', 'week')),
    metric text not null,
    estimate double precision not null,
    low double precision,
    high double precision,
    n_calibration bigint not null,
    primary key (model, partition_date, load_id, span, metric)
);
comment on table monitoring.estimates is 'What a night''s predictions are worth before their labels are known. Grain: model, night, load, span and metric.';
comment on column monitoring.estimates.span is 'night: the night itself; week: the last seven nights.';
comment on column monitoring.estimates.low is 'A band that holds the realised number with 90 percent, day effect included; null until enough nights have matured.';
comment on column monitoring.estimates.n_calibration is 'Matured nights that the band was learnt from.';

create view monitoring.estimates_published as
select
    t.model,
    t.partition_date,
    t.model_version,
    t.span,
    t.metric,
    t.estimate,
    t.low,
    t.high,
    t.n_calibration,
    r.value as realised,
    r.value - t.estimate as error,
    r.value between t.low and t.high as is_covered
from monitoring.estimates t
join ops.published p on p.dataset = 'monitoring_estimates/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id
left join monitoring.performance_published r
    on r.model = t.model and r.partition_date = t.partition_date and r.slice_name = 'all' and r.metric = t.metric
    and t.span = 'night' and r.maturity = 'mature';
comment on view monitoring.estimates_published is 'Estimated performance of each night and week; beside a night the realised number, once its labels are mature. Grain: model, night, span and metric.';
