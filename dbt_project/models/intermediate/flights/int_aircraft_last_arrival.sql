with
outcomes as (
    select * from {{ ref("int_outcomes_in_lookback") }} where arrival_delay_minutes is not null and tail_number is not null
),

versions as (
    select * from {{ ref("int_visible_versions") }} where dataset = 'raw/flight_outcomes' and age_days < 3
),

last_arrival as (
    select distinct on (versions.partition_date, outcomes.tail_number)
        versions.partition_date,
        outcomes.tail_number,
        outcomes.arrival_delay_minutes,
        outcomes.outcome_at
    from versions
    inner join outcomes on versions.source_partition_date = outcomes.partition_date and versions.source_load_id = outcomes.load_id
    order by versions.partition_date asc, outcomes.tail_number asc, outcomes.outcome_at desc, outcomes.flight_id desc
)

select * from last_arrival
