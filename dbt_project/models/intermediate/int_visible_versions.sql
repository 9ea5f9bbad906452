with
clocks as (
    select * from {{ ref("int_partition_clocks") }}
),

versions as (
    select * from {{ ref("stg_raw_versions") }}
),

visible as (
    select
        clocks.partition_date,
        clocks.as_of,
        versions.dataset,
        versions.partition_date as source_partition_date,
        versions.load_id as source_load_id,
        clocks.partition_date - versions.partition_date as age_days,
        row_number() over (
            partition by clocks.partition_date, versions.dataset order by versions.partition_date desc
        ) = 1 as is_latest
    from versions
    inner join clocks
        on versions.partition_date <= clocks.partition_date
        and versions.known_at <= clocks.as_of
        and (versions.superseded_at is null or versions.superseded_at > clocks.as_of)
)

select * from visible
