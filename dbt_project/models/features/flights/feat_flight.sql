{% set windows = var("short_windows_days") + [var("lookback_days")] -%}
{% set weight, weight_of_one = var("smoothing_weight"), var("smoothing_weight_of_one_aircraft") -%}
{% set weight_of_mean = var("smoothing_weight_of_mean_delay") -%}
with
spine as (
    select * from {{ ref("int_flight_spine") }}
),

schedule as (
    select
        *,
        extract(epoch from scheduled_departure_local_at::time) / 60 as departure_minute_of_day,
        count(*) over (partition by partition_date, origin, scheduled_departure_hour) as origin_hour_flights_count,
        count(*) over (partition by partition_date, origin) as origin_day_flights_count,
        count(*) over (partition by partition_date, destination, scheduled_departure_hour) as destination_hour_flights_count,
        row_number() over aircraft_day - 1 as legs_before,
        scheduled_departure_at - lag(scheduled_departure_at) over aircraft_day as since_previous_leg
    from spine
    window aircraft_day as (partition by partition_date, tail_number order by scheduled_departure_at, flight_id)
),

aircraft_versions as (
    select * from {{ ref("int_visible_versions") }} where dataset = 'raw/planes' and is_latest
),

aircraft as (
    select
        aircraft_versions.partition_date,
        dim_aircraft.tail_number,
        dim_aircraft.manufactured_year,
        dim_aircraft.n_seats
    from aircraft_versions
    inner join {{ ref("dim_aircraft") }} as dim_aircraft
        on aircraft_versions.source_partition_date = dim_aircraft.partition_date
        and aircraft_versions.source_load_id = dim_aircraft.load_id
),

airport_versions as (
    select * from {{ ref("int_visible_versions") }} where dataset = 'raw/airports' and is_latest
),

airports as (
    select
        airport_versions.partition_date,
        dim_airport.airport,
        dim_airport.airport_timezone
    from airport_versions
    inner join {{ ref("dim_airport") }} as dim_airport
        on airport_versions.source_partition_date = dim_airport.partition_date
        and airport_versions.source_load_id = dim_airport.load_id
),

{% for group in [
    "day", "carrier", "route", "destination", "aircraft", "origin_hour", "origin", "flight_number", "carrier_hour", "carrier_origin"
] -%}
by_{{ group }} as (
    select * from {{ ref("int_outcomes_by_" ~ group) }}
),

{% endfor -%}
evening as (
    select * from {{ ref("int_origin_evening") }}
),

last_arrival as (
    select * from {{ ref("int_aircraft_last_arrival") }}
),

weather as (
    select * from {{ ref("int_weather_at_cutoff") }}
),

holiday as (
    select * from {{ ref("int_days_to_holiday") }}
),

day_rates as (
    select
        partition_date,
        {% for window in windows -%}
        n_delayed_{{ window }}d / nullif(n_arrived_{{ window }}d, 0) as delay_rate_{{ window }}d,
        delay_minutes_{{ window }}d / nullif(n_arrived_{{ window }}d, 0) as arrival_delay_mean_{{ window }}d,
        {% endfor -%}
        (n_flights_1d - n_arrived_1d) / nullif(n_flights_1d, 0) as not_arrived_rate_1d,
        (n_flights_7d - n_arrived_7d) / nullif(n_flights_7d, 0) as not_arrived_rate_7d
    from by_day
),

features as (
    select
        schedule.flight_id,
        schedule.scheduled_departure_at as event_timestamp,
        schedule.as_of,
        schedule.partition_date,
        {{ var("load_id") }}::bigint as load_id,
        schedule.carrier,
        schedule.origin,
        schedule.destination,
        schedule.departure_minute_of_day::double precision as departure_minute_of_day,
        schedule.scheduled_arrival_minute::double precision as arrival_minute_of_day,
        extract(isodow from schedule.flight_date)::double precision as day_of_week,
        holiday.days_to_holiday::double precision as days_to_holiday,
        schedule.distance_miles::double precision as distance_miles,
        extract(year from schedule.flight_date)::double precision - aircraft.manufactured_year as aircraft_age_years,
        aircraft.n_seats::double precision as aircraft_seats,
        case when schedule.tail_number is not null then schedule.legs_before end::double precision as aircraft_legs_before_count,
        case when schedule.tail_number is not null then extract(epoch from schedule.since_previous_leg) / 60 end::double precision
            as aircraft_minutes_since_previous_leg,
        mod(
            extract(epoch from (
                schedule.flight_date + make_interval(mins => schedule.scheduled_arrival_minute::integer)
            ) at time zone airports.airport_timezone - schedule.scheduled_departure_at)::integer / 60 + 2880, 1440
        )::double precision as scheduled_block_minutes,
        by_route.air_time_minutes_28d / nullif(by_route.n_air_times_28d, 0) as route_air_time_mean_28d,
        schedule.origin_hour_flights_count::double precision as origin_hour_flights_count,
        schedule.origin_day_flights_count::double precision as origin_day_flights_count,
        schedule.destination_hour_flights_count::double precision as destination_hour_flights_count,
        {% for window in windows -%}
        day_rates.delay_rate_{{ window }}d as all_delay_rate_{{ window }}d,
        {% for group, weight in [
            ("carrier", weight), ("route", weight), ("destination", weight), ("origin_hour", weight), ("origin", weight),
            ("carrier_hour", weight), ("carrier_origin", weight), ("aircraft", weight_of_one), ("flight_number", weight_of_one)
        ] -%}
        {%- set delayed, arrived = "by_%s.n_delayed_%sd" % (group, window), "by_%s.n_arrived_%sd" % (group, window) %}
        {{ smoothed(delayed, arrived, "day_rates.delay_rate_%sd" % window, weight) }} as {{ group }}_delay_rate_{{ window }}d,
        {% endfor -%}
        {% endfor -%}
        {% for group in ["carrier", "route", "origin_hour", "aircraft", "flight_number"] -%}
        {{ smoothed("by_%s.delay_minutes_28d" % group, "by_%s.n_arrived_28d" % group, "day_rates.arrival_delay_mean_28d", weight_of_mean) }}
            as {{ group }}_arrival_delay_mean_28d,
        {% endfor -%}
        day_rates.arrival_delay_mean_1d as all_arrival_delay_mean_1d,
        day_rates.not_arrived_rate_1d as all_not_arrived_rate_1d,
        day_rates.not_arrived_rate_7d as all_not_arrived_rate_7d,
        coalesce(by_flight_number.n_arrived_28d, 0) as flight_number_arrivals_count_28d,
        coalesce(by_route.n_arrived_28d, 0) as route_arrivals_count_28d,
        coalesce(by_aircraft.n_arrived_28d, 0) as aircraft_arrivals_count_28d,
        last_arrival.arrival_delay_minutes::double precision as aircraft_arrival_delay_last_3d,
        {{ smoothed("evening.n_delayed", "evening.n_arrived", "day_rates.delay_rate_1d", weight_of_one) }} as origin_evening_delay_rate_1d,
        weather.temperature_f_last,
        weather.dew_point_f_last,
        weather.humidity_pct_last,
        weather.wind_speed_mph_last,
        weather.wind_direction_deg_last,
        weather.precipitation_in_last,
        weather.pressure_mb_last,
        weather.visibility_miles_last,
        weather.temperature_f_last - weather.temperature_f_6h_ago as temperature_f_change_6h,
        weather.pressure_mb_last - weather.pressure_mb_6h_ago as pressure_mb_change_6h,
        weather.wind_speed_mph_max_6h,
        weather.visibility_miles_min_6h,
        weather.precipitation_in_sum_24h
    from schedule
    left join holiday on schedule.partition_date = holiday.partition_date
    left join aircraft on schedule.partition_date = aircraft.partition_date and schedule.tail_number = aircraft.tail_number
    left join airports on schedule.partition_date = airports.partition_date and schedule.destination = airports.airport
    left join day_rates on schedule.partition_date = day_rates.partition_date
    left join by_carrier on schedule.partition_date = by_carrier.partition_date and schedule.carrier = by_carrier.carrier
    left join by_route
        on schedule.partition_date = by_route.partition_date
        and schedule.origin = by_route.origin
        and schedule.destination = by_route.destination
    left join by_destination
        on schedule.partition_date = by_destination.partition_date and schedule.destination = by_destination.destination
    left join by_aircraft on schedule.partition_date = by_aircraft.partition_date and schedule.tail_number = by_aircraft.tail_number
    left join by_origin_hour
        on schedule.partition_date = by_origin_hour.partition_date
        and schedule.origin = by_origin_hour.origin
        and schedule.scheduled_departure_hour = by_origin_hour.scheduled_departure_hour
    left join by_origin on schedule.partition_date = by_origin.partition_date and schedule.origin = by_origin.origin
    left join by_flight_number
        on schedule.partition_date = by_flight_number.partition_date
        and schedule.carrier = by_flight_number.carrier
        and schedule.flight_number = by_flight_number.flight_number
        and schedule.origin = by_flight_number.origin
    left join by_carrier_hour
        on schedule.partition_date = by_carrier_hour.partition_date
        and schedule.carrier = by_carrier_hour.carrier
        and schedule.scheduled_departure_hour = by_carrier_hour.scheduled_departure_hour
    left join by_carrier_origin
        on schedule.partition_date = by_carrier_origin.partition_date
        and schedule.carrier = by_carrier_origin.carrier
        and schedule.origin = by_carrier_origin.origin
    left join evening on schedule.partition_date = evening.partition_date and schedule.origin = evening.origin
    left join last_arrival
        on schedule.partition_date = last_arrival.partition_date and schedule.tail_number = last_arrival.tail_number
    left join weather on schedule.partition_date = weather.partition_date and schedule.origin = weather.origin
)

select * from features
