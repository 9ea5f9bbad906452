with
delivered as (
    select * from {{ source("raw", "planes") }}
),

versions as (
    select * from {{ ref("stg_raw_versions") }} where dataset = 'raw/planes'
),

versioned as (
    select
        delivered.tail_number,
        delivered.manufactured_year,
        delivered.aircraft_type,
        delivered.manufacturer,
        delivered.model,
        delivered.n_engines,
        delivered.n_seats,
        delivered.engine,
        delivered.partition_date,
        delivered.load_id,
        versions.known_at,
        versions.superseded_at
    from delivered
    inner join versions on delivered.partition_date = versions.partition_date and delivered.load_id = versions.load_id
)

select * from versioned
