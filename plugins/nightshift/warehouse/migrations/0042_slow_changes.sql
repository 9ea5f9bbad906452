-- What the nights since a champion's training add up to, beside the distance of the one night.
alter table monitoring.drift
add column slow_evidence double precision,
add column slow_statistic text,
add column slow_shift double precision,
add column slow_since date,
add column is_slow boolean not null default false;
comment on column monitoring.drift.slow_evidence is 'The sum of the deviations of all nights since the training, in units of what no chance reaches; from 1 on is_slow. Null if it is unknown, and of verdicts before this column.';
comment on column monitoring.drift.slow_statistic is 'Of which summary of the nights: as statistic, or zero_share or n_distinct.';
comment on column monitoring.drift.slow_shift is 'Its mean deviation from the training nights since the sum began to grow, in usual variations from night to night; bounded for each night.';
comment on column monitoring.drift.slow_since is 'First night of the slow change, as the sum tells it; null without one.';

create or replace view monitoring.drift_published as
select t.* from monitoring.drift t
join ops.published p on p.dataset = 'monitoring_drift/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
