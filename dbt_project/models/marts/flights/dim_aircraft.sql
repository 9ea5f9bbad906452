with
aircraft as (
    select * from {{ ref("stg_planes") }}
)

select * from aircraft
