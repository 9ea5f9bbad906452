{#- Counts of outcomes over the trailing windows, per partition and group.

    A day's outcomes are added up once per delivered version, then the versions that were known at each partition's cut-off
    are added up: exact integers, so the order of rows and the size of the range cannot change a bit. -#}
{% macro trailing_outcomes(group_columns) -%}
with
outcomes as (
    select * from {{ ref("int_outcomes_in_lookback") }}
),

versions as (
    select * from {{ ref("int_visible_versions") }}
    where dataset = 'raw/flight_outcomes' and age_days < {{ var("lookback_days") }}
),

per_version as (
    select
        partition_date,
        load_id,
        {% for column in group_columns %}{{ column }},
        {% endfor -%}
        count(*)::integer as n_flights,
        count(arrival_delay_minutes)::integer as n_arrived,
        (count(*) filter (where arrival_delay_minutes >= 15))::integer as n_delayed,
        sum(arrival_delay_minutes)::integer as delay_minutes,
        sum(air_time_minutes)::integer as air_time_minutes,
        count(air_time_minutes)::integer as n_air_times
    from outcomes
    group by partition_date, load_id{% for column in group_columns %}, {{ column }}{% endfor %}
),

windowed as (
    select
        versions.partition_date,
        {% for column in group_columns %}per_version.{{ column }},
        {% endfor -%}
        {% for window in [1, 7, 28] -%}
        coalesce(sum(n_flights) filter (where age_days < {{ window }}), 0)::double precision as n_flights_{{ window }}d,
        coalesce(sum(n_arrived) filter (where age_days < {{ window }}), 0)::double precision as n_arrived_{{ window }}d,
        coalesce(sum(n_delayed) filter (where age_days < {{ window }}), 0)::double precision as n_delayed_{{ window }}d,
        coalesce(sum(delay_minutes) filter (where age_days < {{ window }}), 0)::double precision as delay_minutes_{{ window }}d,
        {% endfor -%}
        sum(air_time_minutes)::double precision as air_time_minutes_28d,
        sum(n_air_times)::double precision as n_air_times_28d
    from versions
    inner join per_version on versions.source_partition_date = per_version.partition_date and versions.source_load_id = per_version.load_id
    group by versions.partition_date{% for column in group_columns %}, per_version.{{ column }}{% endfor %}
)

select * from windowed
{%- endmacro %}

{#- A ratio that leans toward a prior while few events support it: `weight` counts as that many events of the prior.
    Source: additive smoothing with a prior; Micci-Barreca, SIGKDD Explorations 3(1), 2001. -#}
{% macro smoothed(total, n, prior, weight) -%}
    (coalesce({{ total }}, 0) + {{ weight }} * {{ prior }}) / (coalesce({{ n }}, 0) + {{ weight }})
{%- endmacro %}
