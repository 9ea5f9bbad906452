{% set measures = [
    "temperature_f", "dew_point_f", "humidity_pct", "wind_speed_mph", "wind_direction_deg", "precipitation_in", "pressure_mb",
    "visibility_miles"
] -%}
with
observations as (
    select * from {{ ref("fct_weather_observations") }}
    where {{ is_in_lookback("partition_date", 2) }}
),

versions as (
    select * from {{ ref("int_visible_versions") }}
    where dataset = 'raw/weather' and age_days <= 1
),

visible as (
    select
        versions.partition_date,
        observations.origin,
        observations.observed_at,
        {% for measure in measures -%}
        observations.{{ measure }},
        {% endfor -%}
        max(observations.observed_at) over (partition by versions.partition_date, observations.origin) as last_observed_at
    from versions
    inner join observations
        on versions.source_partition_date = observations.partition_date and versions.source_load_id = observations.load_id
    where observations.observed_at <= versions.as_of
),

at_cutoff as (
    select
        partition_date,
        origin,
        {% for measure in measures -%}
        (array_agg({{ measure }} order by observed_at desc) filter (where {{ measure }} is not null))[1] as {{ measure }}_last,
        {% endfor -%}
        (array_agg(temperature_f order by observed_at desc) filter (
            where temperature_f is not null and observed_at <= last_observed_at - interval '6 hours'
        ))[1] as temperature_f_6h_ago,
        (array_agg(pressure_mb order by observed_at desc) filter (
            where pressure_mb is not null and observed_at <= last_observed_at - interval '6 hours'
        ))[1] as pressure_mb_6h_ago,
        max(wind_speed_mph) filter (where observed_at > last_observed_at - interval '6 hours') as wind_speed_mph_max_6h,
        min(visibility_miles) filter (where observed_at > last_observed_at - interval '6 hours') as visibility_miles_min_6h,
        (sum(precipitation_in::numeric) filter (where observed_at > last_observed_at - interval '24 hours'))::double precision
            as precipitation_in_sum_24h
    from visible
    group by partition_date, origin
)

select * from at_cutoff
