with
schedules as (
    select * from {{ ref("stg_flight_schedules") }}
),

timed as (
    select
        flight_id,
        flight_date,
        carrier,
        flight_number,
        tail_number,
        origin,
        destination,
        scheduled_departure_at,
        {{ local_time("scheduled_departure_at") }} as scheduled_departure_local_at,
        {{ local_hour("scheduled_departure_at") }} as scheduled_departure_hour,
        (scheduled_arrival_hhmm / 100) * 60 + scheduled_arrival_hhmm % 100 as scheduled_arrival_minute,
        distance_miles,
        partition_date,
        load_id,
        known_at,
        superseded_at
    from schedules
)

select * from timed
