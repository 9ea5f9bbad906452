with
outcomes as (
    select * from {{ ref("fct_flight_outcomes") }}
),

in_lookback as (
    select
        partition_date,
        load_id,
        flight_id,
        carrier,
        flight_number,
        tail_number,
        origin,
        destination,
        scheduled_departure_hour,
        arrival_delay_minutes::integer as arrival_delay_minutes,
        air_time_minutes::integer as air_time_minutes,
        outcome_at
    from outcomes
    where {{ is_in_lookback("partition_date") }}
)

select * from in_lookback
