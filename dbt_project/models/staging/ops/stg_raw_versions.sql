with
versions as (
    select
        dataset,
        partition_date,
        load_id,
        known_at,
        superseded_at
    from {{ source("ops", "raw_versions") }}
)

select * from versions
