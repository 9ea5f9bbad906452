{#- The views of one model's predictions, one macro per kind. Two render them: dbt, for the models in models/analytics/predictions, and
    nightshift (plugins/nightshift/warehouse/relations/prediction_views.py), which makes the warehouse's views without starting dbt.
    So they use plain Jinja only: `spec` holds the relations and the words of the model's spec. A macro that ends in _v1 is the view of
    before, which stays under the name with its version until it is removed. -#}

{% macro prediction_columns_v1(key) -%}
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
{% macro current_predictions_v1(predictions, published, dataset, key) -%}
select
    {{ prediction_columns_v1(key) }}
from {{ predictions }} as t
inner join {{ published }} as p
    on p.dataset = '{{ dataset }}' and t.partition_date = p.partition_date and t.load_id = p.load_id
{%- endmacro %}

{#- Every load that was ever published. -#}
{% macro prediction_history_v1(predictions, loads, dataset, key) -%}
select
    {{ prediction_columns_v1(key) }},
    l.published_at,
    l.superseded_at
from {{ predictions }} as t
inner join {{ loads }} as l
    on l.dataset = '{{ dataset }}' and t.partition_date = l.partition_date and t.load_id = l.load_id and l.state = 'published'
{%- endmacro %}

{#- The predictions that count now, and what came true, from the function of create_label_function. An outcome is mature when outcomes
    of `maturity_days` whole days after the predicted day have been delivered. -#}
{% macro prediction_outcomes_v1(predictions, published, label_function, dataset, key, maturity_days) -%}
with latest as (select * from {{ label_function }}())

select
    {{ prediction_columns_v1(key) }},
    latest.outcome,
    latest.known_at as outcome_known_at,
    coalesce(t.partition_date + {{ 1 + maturity_days }} <= (select max(label_date) from latest), false) as is_mature
from {{ predictions }} as t
inner join {{ published }} as p
    on p.dataset = '{{ dataset }}' and t.partition_date = p.partition_date and t.load_id = p.load_id
left join latest on t."{{ key }}" = latest.entity_key
{%- endmacro %}

{#- The operating day on which the predicted thing is due. -#}
{% macro predicted_day(spec, rows) -%}
    ({{ rows }}.event_timestamp at time zone '{{ spec.timezone }}')::date
{%- endmacro %}

{#- An attribute as it was when the row was scored: one look-up by index, and none in a query that does not read it. -#}
{% macro attribute(spec, name) -%}
    (
        select f."{{ name }}"
        from {{ spec.features }} as f
        where f.load_id = l.feature_load_id and f.partition_date = t.partition_date and f."{{ spec.key }}" = t."{{ spec.key }}"
        limit 1
    )
{%- endmacro %}

{#- How sure a prediction is; null in a warehouse whose table has no place for it yet. -#}
{% macro interval_column(spec, name) -%}
    {% if spec.get("lacks_intervals") %}null::double precision{% else %}t.{{ name }}{% endif %}
{%- endmacro %}

{#- What a person looks at first. -#}
{% macro prediction_front(spec) -%}
    t."{{ spec.key }}",
    {{ predicted_day(spec, "t") }} as predicted_day,
    {%- for name in spec.attributes %}
    {{ attribute(spec, name) }} as "{{ name }}",
    {%- endfor %}
    {%- if spec.is_binary %}
    t.probability,
    {{ interval_column(spec, "interval_low") }} as probability_low,
    {{ interval_column(spec, "interval_high") }} as probability_high,
    t.is_positive,
    {%- elif spec.get("classes") %}
    t.predicted_class,
    t.probability,
    {%- for name, column in spec.classes %}
    t."{{ column }}",
    {%- endfor %}
    {%- elif spec.get("is_ranking") %}
    t.rank,
    t.is_top_k,
    t.score,
    {%- else %}
    t.score as value,
    {{ interval_column(spec, "median") }} as median,
    {{ interval_column(spec, "interval_low") }} as value_low,
    {{ interval_column(spec, "interval_high") }} as value_high,
    {%- endif %}
    t.decile
{%- endmacro %}

{#- Where the row comes from; deprecated columns, and the ids of loads last. -#}
{% macro prediction_back(spec, is_history) -%}
    t.model_version,
    t.score_source,
    t.score_source_reason,
    t.features_as_of as known_as_of,
    l.published_at,
    {%- if is_history %}
    l.superseded_at,
    {%- endif %}
    t.event_timestamp,
    t.partition_date,
    t.reasons,
    {%- if spec.get("classes") %}
    t.raw_score,
    {%- endif %}
    {%- if not spec.get("is_ranking") %}
    t.score,
    {%- endif %}
    {%- if not spec.is_binary and not spec.get("classes") and not spec.get("is_ranking") %}
    t.probability,
    t.is_positive,
    {%- endif %}
    t.features_as_of,
    t.load_id,
    t.run_id
{%- endmacro %}

{#- Published rows, and the base that their contributions add up from. -#}
{% macro prediction_rows(spec, is_history) -%}
from {{ spec.predictions }} as t
inner join predictions.published_loads('{{ spec.predictions_dataset }}', '{{ spec.features_dataset }}') as l
    on t.partition_date = l.partition_date and t.load_id = l.load_id{% if not is_history %} and l.is_current{% endif %}
{{ base_joins(spec, "t", "e") }}
{%- endmacro %}

{#- The predictions that count now. -#}
{% macro current_predictions(spec) -%}
select
    {{ prediction_front(spec) }},
    {{ reason_columns(spec) }},
    {{ prediction_back(spec, false) }}
{{ prediction_rows(spec, false) }}
{{ reason_joins(spec) }}
{%- endmacro %}

{#- Every load that was ever published. -#}
{% macro prediction_history(spec) -%}
select
    {{ prediction_front(spec) }},
    {{ reason_columns(spec) }},
    {{ prediction_back(spec, true) }}
{{ prediction_rows(spec, true) }}
{{ reason_joins(spec) }}
{%- endmacro %}

{#- The predictions that count now, and what came true, from the function of create_label_function. An outcome is mature when outcomes
    of `maturity_days` whole days after the predicted day have been delivered. -#}
{% macro prediction_outcomes(spec) -%}
{%- set outcome_type = "integer" if spec.is_binary else "text" if spec.get("classes") else "double precision" -%}
{%- set outcome = "latest.outcome::" ~ outcome_type -%}
with latest as (select * from {{ spec.label_function }}())

select
    {{ prediction_front(spec) }},
    {{ outcome }} as outcome,
    {%- if spec.is_binary %}
    -- A rule may say 0 or 1, and be wrong.
    -ln(greatest(case {{ outcome }} when 1 then t.probability when 0 then 1 - t.probability end, 1e-15)) as log_loss,
    {%- elif spec.get("classes") %}
    t.predicted_class = {{ outcome }} as is_correct,
    -ln(greatest(
        case {{ outcome }}
            {%- for name, column in spec.classes %}
            when '{{ name | replace("'", "''") }}' then t."{{ column }}"
            {%- endfor %}
        end, 1e-15
    )) as log_loss,
    {%- elif not spec.get("is_ranking") %}
    abs(t.score - {{ outcome }}) as absolute_error,
    {%- endif %}
    coalesce(t.partition_date + {{ 1 + spec.maturity_days }} <= (select max(label_date) from latest), false) as is_mature,
    latest.known_at as outcome_known_at,
    {{ reason_columns(spec) }},
    {{ prediction_back(spec, false) }}
{{ prediction_rows(spec, false) }}
left join latest on t."{{ spec.key }}" = latest.entity_key
{{ reason_joins(spec) }}
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
