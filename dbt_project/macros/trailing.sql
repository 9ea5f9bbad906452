{#- Counts of outcomes over the trailing windows, per partition and group, for the groups that fly on the next day.

    A day's outcomes are added up once per delivered version. Versions that are visible to every partition that looks back on them
    (nearly all) are added up by window frames, one pass for a whole range. The others, which a later delivery replaced or
    that came late, are added up per partition that sees them. All sums are exact integers: neither the order of rows nor the size of
    the range can change a bit. Measured in docs/adr/0006-dbt-loads.md. -#}
{% macro trailing_outcomes(group_columns) -%}
{%- set windows = var("short_windows_days") + [var("lookback_days")] -%}
{%- set measures = ["n_flights", "n_arrived", "n_delayed", "delay_minutes", "n_air_times", "air_time_minutes"] -%}
{%- set days = as_of_by_partition().keys() | sort -%}
{%- set first, last = (days | first, days | last) if days else ("0001-01-01", "0001-01-01") -%}
with
outcomes as (
    select * from {{ ref("int_outcomes_in_lookback") }}
    {%- for column in group_columns %}
    {{ "where" if loop.first else "and" }} {{ column }} is not null
    {%- endfor %}
),

visible_versions as (
    select * from {{ ref("int_visible_versions") }}
    where dataset = 'raw/flight_outcomes' and age_days < {{ var("lookback_days") }}
),

versions as (
    select
        *,
        count(*) over (partition by source_partition_date, source_load_id)
        = least('{{ last }}'::date, source_partition_date + {{ var("lookback_days") }} - 1)
        - greatest('{{ first }}'::date, source_partition_date) + 1 as is_always_visible
    from visible_versions
),

always_visible as (
    select distinct
        source_partition_date,
        source_load_id
    from versions
    where is_always_visible
),

per_version as (
    select
        partition_date,
        load_id,
        {% for column in group_columns %}{{ column }},
        {% endfor -%}
        count(*)::integer as n_flights,
        count(arrival_delay_minutes)::integer as n_arrived,
        (count(*) filter (where arrival_delay_minutes >= {{ var("delayed_minutes") }}))::integer as n_delayed,
        coalesce(sum(arrival_delay_minutes), 0)::integer as delay_minutes,
        count(air_time_minutes)::integer as n_air_times,
        coalesce(sum(air_time_minutes), 0)::integer as air_time_minutes
    from outcomes
    group by partition_date, load_id{% for column in group_columns %}, {{ column }}{% endfor %}
),

flying as (
    select distinct
        partition_date{% for column in group_columns %},
        {{ column }}{% endfor %}
    from {{ ref("int_flight_spine") }}
),

days as (
    select
        per_version.partition_date,
        {% for column in group_columns %}per_version.{{ column }},
        {% endfor -%}
        {% for measure in measures %}{{ measure }},
        {% endfor -%}
        false as is_asked
    from per_version
    inner join always_visible
        on per_version.partition_date = always_visible.source_partition_date and per_version.load_id = always_visible.source_load_id
    union all
    select
        partition_date,
        {% for column in group_columns %}{{ column }},
        {% endfor -%}
        {% for measure in measures %}0 as {{ measure }},
        {% endfor -%}
        true as is_asked
    from flying
),

running as (
    select
        partition_date,
        {% for column in group_columns %}{{ column }},
        {% endfor -%}
        {% for window in windows -%}
        {% for measure in measures -%}
        sum({{ measure }}) over last_{{ window }}d as {{ measure }}_{{ window }}d,
        {% endfor -%}
        {% endfor -%}
        is_asked
    from days
    window
        {% for window in windows -%}
        last_{{ window }}d as (
            {% if group_columns %}partition by {{ group_columns | join(", ") }} {% endif -%}
            order by partition_date range between interval '{{ window - 1 }} days' preceding and current row
        ){% if not loop.last %},
        {% endif %}
        {%- endfor %}
),

partly_visible as (
    select
        versions.partition_date{% for column in group_columns %},
        per_version.{{ column }}{% endfor %}
        {%- for window in windows -%}
        {% for measure in measures %},
        sum({{ measure }}) filter (where age_days < {{ window }}) as {{ measure }}_{{ window }}d
        {%- endfor -%}
        {% endfor %}
    from versions
    inner join per_version on versions.source_partition_date = per_version.partition_date and versions.source_load_id = per_version.load_id
    where not versions.is_always_visible
    group by versions.partition_date{% for column in group_columns %}, per_version.{{ column }}{% endfor %}
),

windowed as (
    select
        running.partition_date{% for column in group_columns %},
        running.{{ column }}{% endfor %}
        {%- for window in windows -%}
        {% for measure in measures %}
        {%- set total = "%s_%sd" % (measure, window) %},
        (running.{{ total }} + coalesce(partly_visible.{{ total }}, 0))::double precision as {{ total }}
        {%- endfor -%}
        {% endfor %}
    from running
    left join partly_visible
        on running.partition_date = partly_visible.partition_date
        {%- for column in group_columns %}
        and running.{{ column }} = partly_visible.{{ column }}
        {%- endfor %}
    where running.is_asked
)

select * from windowed
{%- endmacro %}

{#- A ratio that leans toward a prior while few events support it: `weight` counts as that many events of the prior.
    Source: additive smoothing with a prior; Micci-Barreca, SIGKDD Explorations 3(1), 2001. -#}
{% macro smoothed(total, n, prior, weight) -%}
    (coalesce({{ total }}, 0) + {{ weight }} * {{ prior }}) / (coalesce({{ n }}, 0) + {{ weight }})
{%- endmacro %}
