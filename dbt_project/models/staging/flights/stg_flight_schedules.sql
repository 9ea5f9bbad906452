with
delivered as (
    select * from {{ source("raw", "flight_schedules") }}
),

versions as (
    select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/flight_schedules'
),

versioned as (
    select
        concat_ws(
            '_', to_char(delivered.flight_date, 'YYYY-MM-DD'), delivered.carrier, delivered.flight_number, delivered.origin
        ) as flight_id,
        delivered.flight_date,
        delivered.carrier,
        delivered.flight_number,
        delivered.tail_number,
        delivered.origin,
        delivered.destination,
        delivered.scheduled_departure_at,
        delivered.scheduled_arrival_hhmm,
        delivered.distance_miles,
        delivered.partition_date,
        delivered.load_id,
        versions.known_at,
        versions.superseded_at
    from delivered
    inner join versions on delivered.partition_date = versions.partition_date and delivered.load_id = versions.load_id
)

select * from versioned
