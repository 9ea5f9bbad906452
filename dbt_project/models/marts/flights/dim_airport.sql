with
airports as (
    select * from {{ ref("stg_airports") }}
)

select * from airports
