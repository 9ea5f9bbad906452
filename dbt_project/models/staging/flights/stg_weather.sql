with
delivered as (
    select * from {{ source("raw", "weather") }}
),

versions as (
    select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/weather'
),

versioned as (
    select
        delivered.origin,
        delivered.observed_at,
        delivered.temperature_f,
        delivered.dew_point_f,
        delivered.humidity_pct,
        delivered.wind_direction_deg,
        delivered.wind_speed_mph,
        delivered.wind_gust_mph,
        delivered.precipitation_in,
        delivered.pressure_mb,
        delivered.visibility_miles,
        delivered.partition_date,
        delivered.load_id,
        versions.known_at,
        versions.superseded_at
    from delivered
    inner join versions on delivered.partition_date = versions.partition_date and delivered.load_id = versions.load_id
)

select * from versioned
