{#- The views of one model's predictions, one macro per kind. Two render them: dbt, for the models in models/analytics/predictions, and
    nightshift (plugins/nightshift/warehouse/relations/prediction_views.py), which makes the warehouse's views without starting dbt.
    So they use plain Jinja only: relations are arguments. -#}

{% macro prediction_columns(key) -%}
    t.partition_date,
    t.load_id,
    t."{{ key }}",
    t.event_timestamp,
    t.score,
    t.probability,
    t.decile,
    t.is_positive,
    t.reasons,
    t.model_version,
    t.features_as_of,
    t.score_source,
    t.score_source_reason,
    t.run_id
{%- endmacro %}

{#- The predictions that count now: the load of each partition that the pointer names. -#}
{% macro current_predictions(predictions, published, dataset, key) -%}
select
    {{ prediction_columns(key) }}
from {{ predictions }} as t
inner join {{ published }} as p
    on p.dataset = '{{ dataset }}' and t.partition_date = p.partition_date and t.load_id = p.load_id
{%- endmacro %}

{#- Every load that was ever published. -#}
{% macro prediction_history(predictions, loads, dataset, key) -%}
select
    {{ prediction_columns(key) }},
    l.published_at,
    l.superseded_at
from {{ predictions }} as t
inner join {{ loads }} as l
    on l.dataset = '{{ dataset }}' and t.partition_date = l.partition_date and t.load_id = l.load_id and l.state = 'published'
{%- endmacro %}

{#- The predictions that count now, and what came true, from the function of create_label_function. An outcome is mature when outcomes
    of `maturity_days` whole days after the predicted day have been delivered. -#}
{% macro prediction_outcomes(predictions, published, label_function, dataset, key, maturity_days) -%}
with latest as (select * from {{ label_function }}())

select
    {{ prediction_columns(key) }},
    latest.outcome,
    latest.known_at as outcome_known_at,
    coalesce(t.partition_date + {{ 1 + maturity_days }} <= (select max(label_date) from latest), false) as is_mature
from {{ predictions }} as t
inner join {{ published }} as p
    on p.dataset = '{{ dataset }}' and t.partition_date = p.partition_date and t.load_id = p.load_id
left join latest on t."{{ key }}" = latest.entity_key
{%- endmacro %}

{#- The function that reads the newest label of each entity, from the first predicted day on.

    A view is planned with the settings of its reader, and a label relation needs nested loops off: PostgreSQL expects one row of it where
    there are 500,000 (docs/adr/0036-analysts-and-the-warehouse.md). Only a function brings its own settings to every login. So many rows
    are promised that the reader's own join with them is planned as a hash join. Its types are those of the label relation: when they
    change, the function and the view on it are made again. A label relation without the key is refused by the training. -#}
{% macro create_label_function(label_function, predictions, labels, key, label) -%}
do $do$
declare
    new_result text := (
        select format(
            'TABLE(entity_key %s, outcome %s, known_at timestamp with time zone, label_date date)',
            coalesce(max(format_type(atttypid, atttypmod)) filter (where attname = '{{ key }}'), 'text'),
            max(format_type(atttypid, atttypmod)) filter (where attname = '{{ label }}')
        )
        from pg_attribute
        where attrelid = '{{ labels }}'::regclass and attnum > 0 and not attisdropped
    );
begin
    if pg_get_function_result(to_regprocedure('{{ label_function }}()')) <> new_result then
        drop function {{ label_function }}() cascade;
    end if;
    execute format($create$
create or replace function {{ label_function }}() returns %s
language sql stable security definer rows 1000000
set search_path = pg_catalog, pg_temp set enable_nestloop = off set work_mem = '64MB'
as $body$
select distinct on ("{{ key }}") "{{ key }}", "{{ label }}", known_at, partition_date
from {{ labels }}
where superseded_at is null and partition_date >= (select min(partition_date) from {{ predictions }})
order by "{{ key }}", known_at desc, partition_date desc
$body$
$create$, new_result);
    revoke all on function {{ label_function }}() from public;
    if exists (select from pg_roles where rolname = 'analyst') then
        grant execute on function {{ label_function }}() to analyst;
    end if;
end
$do$
{%- endmacro %}

{#- Where that function stands: in the warehouse in a schema that no analyst may name, for a developer alongside the view. -#}
{% macro label_function(model) -%}
    "{{ 'predictions' if this.schema == 'analytics' else this.schema }}"."{{ model }}_labels"
{%- endmacro %}
