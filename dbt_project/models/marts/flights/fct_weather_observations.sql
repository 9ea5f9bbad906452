with
observations as (
    select * from {{ ref("stg_weather") }}
)

select * from observations
