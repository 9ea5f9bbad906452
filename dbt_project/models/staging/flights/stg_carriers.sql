with
delivered as (
    select * from {{ source("raw", "carriers") }}
),

versions as (
    select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/carriers'
),

versioned as (
    select
        delivered.carrier,
        delivered.carrier_name,
        delivered.partition_date,
        delivered.load_id,
        versions.known_at,
        versions.superseded_at
    from delivered
    inner join versions on delivered.partition_date = versions.partition_date and delivered.load_id = versions.load_id
)

select * from versioned
