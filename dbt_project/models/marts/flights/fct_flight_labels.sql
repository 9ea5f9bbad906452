with
outcomes as (
    select * from {{ ref("fct_flight_outcomes") }}
),

labels as (
    select
        flight_id,
        partition_date,
        outcome_at as event_timestamp,
        known_at,
        superseded_at,
        case when status = 'arrived' then (arrival_delay_minutes >= {{ var("delayed_minutes") }})::integer end as is_delayed,
        case when status = 'arrived' then arrival_delay_minutes end as arrival_delay_minutes
    from outcomes
)

select * from labels
