with
clocks as (
    select * from {{ ref("int_partition_clocks") }}
),

holidays as (
    select * from {{ ref("int_holidays") }}
),

nearest as (
    select distinct on (clocks.partition_date)
        clocks.partition_date,
        holidays.holiday_date - (clocks.partition_date + 1) as days_to_holiday
    from clocks
    cross join holidays
    order by clocks.partition_date, abs(holidays.holiday_date - (clocks.partition_date + 1)), holidays.holiday_date
)

select * from nearest
