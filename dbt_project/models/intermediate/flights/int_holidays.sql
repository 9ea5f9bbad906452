{#- US federal holidays. A rule is: month, weekday (Sunday is 0), first day of the month on which it can fall. -#}
with
years as (
    select distinct extract(year from partition_date)::integer + shift as calendar_year
    from {{ ref("int_partition_clocks") }}
    cross join generate_series(-1, 1) as shift
),

rules (calendar_month, weekday, earliest) as (
    values (1, 1, 15), (2, 1, 15), (5, 1, 25), (9, 1, 1), (10, 1, 8), (11, 4, 22)
),

moving as (
    select
        make_date(calendar_year, calendar_month, earliest)
        + (weekday - extract(dow from make_date(calendar_year, calendar_month, earliest))::integer + 7) % 7 as holiday_date
    from years
    cross join rules
),

fixed as (
    select make_date(calendar_year, calendar_month, calendar_day) as holiday_date
    from years
    cross join (values (1, 1), (7, 4), (11, 11), (12, 25)) as fixed_days (calendar_month, calendar_day)
),

holidays as (
    select holiday_date from moving
    union all
    select holiday_date from fixed
)

select * from holidays
