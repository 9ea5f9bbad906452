with
outcomes as (
    select * from {{ ref("int_outcomes_in_lookback") }} where scheduled_departure_hour >= {{ var("evening_begins_hour") }}
),

versions as (
    select * from {{ ref("int_visible_versions") }} where dataset = 'raw/flight_outcomes' and age_days = 0
),

evening as (
    select
        versions.partition_date,
        outcomes.origin,
        count(outcomes.arrival_delay_minutes)::double precision as n_arrived,
        (count(*) filter (where outcomes.arrival_delay_minutes >= {{ var("delayed_minutes") }}))::double precision as n_delayed,
        coalesce(sum(outcomes.arrival_delay_minutes), 0)::double precision as delay_minutes
    from versions
    inner join outcomes on versions.source_partition_date = outcomes.partition_date and versions.source_load_id = outcomes.load_id
    group by versions.partition_date, outcomes.origin
)

select * from evening
