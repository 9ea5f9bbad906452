-- How sure the measured quality of a night is: bounds beside each metric.
alter table monitoring.performance
add column low double precision,
add column high double precision;
comment on column monitoring.performance.low is 'Lower bound of the metric''s 95 % interval over draws of the night''s rows; null where none was computed, and for measurements of before.';
comment on column monitoring.performance.high is 'Upper bound of the same interval. It has the chance of the rows, not that of the day.';

create or replace view monitoring.performance_published as
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
    t.model_version,
    t.maturity,
    t.low,
    t.high
from monitoring.performance t
join ops.published p on p.dataset = 'monitoring_performance/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
