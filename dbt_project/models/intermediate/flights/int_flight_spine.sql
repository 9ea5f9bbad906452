with
schedules as (
    select * from {{ ref("fct_flight_schedules") }}
    where {{ is_in_lookback("partition_date", 1) }}
),

versions as (
    select * from {{ ref("int_visible_versions") }}
    where dataset = 'raw/flight_schedules' and age_days = 0
),

spine as (
    select
        schedules.flight_id,
        schedules.flight_date,
        schedules.carrier,
        schedules.flight_number,
        schedules.tail_number,
        schedules.origin,
        schedules.destination,
        schedules.scheduled_departure_at,
        schedules.scheduled_departure_local_at,
        schedules.scheduled_departure_hour,
        schedules.scheduled_arrival_minute,
        schedules.distance_miles,
        schedules.partition_date,
        versions.as_of
    from schedules
    inner join versions on schedules.partition_date = versions.partition_date and schedules.load_id = versions.source_load_id
)

select * from spine
