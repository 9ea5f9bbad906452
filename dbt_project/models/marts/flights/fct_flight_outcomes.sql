with
outcomes as (
    select * from {{ ref("stg_flight_outcomes") }}
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
        {{ local_hour("scheduled_departure_at") }} as scheduled_departure_hour,
        status,
        departure_delay_minutes,
        arrival_delay_minutes,
        air_time_minutes,
        outcome_at,
        partition_date,
        load_id,
        known_at,
        superseded_at
    from outcomes
)

select * from timed
