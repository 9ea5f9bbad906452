with
delivered as (
    select * from {{ source("raw", "airports") }}
),

versions as (
    select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/airports'
),

versioned as (
    select
        delivered.airport,
        delivered.airport_name,
        delivered.latitude_deg,
        delivered.longitude_deg,
        delivered.altitude_ft,
        delivered.airport_timezone,
        delivered.partition_date,
        delivered.load_id,
        versions.known_at,
        versions.superseded_at
    from delivered
    inner join versions on delivered.partition_date = versions.partition_date and delivered.load_id = versions.load_id
)

select * from versioned
