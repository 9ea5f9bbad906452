-- Who reads by right, how sure the quality of a night is, and what moved its predictions.
-- A role that is dropped leaves no trace in the catalog, and no task would miss it.
create table ops.reader_roles (
    role text primary key,
    relations text [],
    granted_at timestamptz not null default clock_timestamp()
);
comment on table ops.reader_roles is 'Roles that nightshift migrate has given rights to read; a rule of incidents compares them with the catalog. Grain: role.';
comment on column ops.reader_roles.relations is 'What the role must be able to read; null for all views of schema analytics.';

-- Bounds beside each metric of a night.
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

-- The level of each published night.
create view ops.published_levels as
select
    substr(v.dataset, length('predictions/') + 1) as model,
    v.partition_date,
    v.load_id,
    v.model_version,
    v.shift,
    v.estimate,
    v.n_nights,
    v.n_rows,
    v.first_night,
    v.last_night,
    v.reason
from ops.score_levels v
join ops.published p using (dataset, partition_date, load_id)
where v.dataset like 'predictions/%';
comment on view ops.published_levels is 'The level of each published night: what was added to the answers of the version that scored it. Grain: model, partition and version.';

-- An aggregate of rows that its caller may not read: it gives sums by cause and no value of a row.
create function ops.night_causes(model text, day date)
returns table (cause text, n_rows bigint, mean_contribution double precision, mean_size double precision, share double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    predictions_table regclass := to_regclass(format('predictions.%I', model));
begin
    -- A model that has never scored, or code of before causes were kept.
    if predictions_table is null or not exists (
        select from pg_attribute where attrelid = predictions_table and attname = 'causes' and not attisdropped
    ) then
        return;
    end if;
    -- Rows lie by shard, a hash of their key: the first five thousand are a sample.
    return query execute format(
        $query$
        with sampled as (
            select t.causes from %s t
            join ops.published p
                on p.dataset = $1 and (p.partition_date, p.load_id) = (t.partition_date, t.load_id)
            where t.partition_date = $2 and jsonb_typeof(t.causes) = 'object'
            limit 5000
        ), sizes as (
            select c.key, count(*) as n, avg(c.value::double precision) as mean,
                avg(abs(c.value::double precision)) as size
            from sampled cross join lateral jsonb_each_text(sampled.causes) c group by c.key
        )
        select key, n, mean, size, size / nullif(sum(size) over (), 0) from sizes order by size desc, key
        $query$,
        predictions_table
    ) using 'predictions/' || model, day;
end;
$$;
revoke execute on function ops.night_causes(text, date) from public;
comment on function ops.night_causes(text, date) is 'What moved the predictions of a published night: mean contribution of each cause, and its share of all sizes, over at most 5,000 rows. Grain: cause.';
