-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ prediction_causes(spec={
    'name': 'flight_delayed',
    'key': 'flight_id',
    'timezone': 'America/New_York',
    'is_binary': true,
    'attributes': ['carrier', 'origin', 'destination'],
    'n_reasons': 3,
    'causes': [['airline and flight', 'how late this airline and this flight were in the last weeks', ['carrier_delay_rate_7d', 'carrier_hour_delay_rate_7d', 'carrier_origin_delay_rate_7d', 'flight_number_delay_rate_7d', 'carrier_delay_rate_28d', 'carrier_hour_delay_rate_28d', 'carrier_origin_delay_rate_28d', 'flight_number_delay_rate_28d', 'carrier_arrival_delay_mean_28d', 'flight_number_arrival_delay_mean_28d', 'flight_number_arrivals_count_28d', 'carrier']], ['airport and time of day', 'airport and hour of the day', ['departure_minute_of_day', 'arrival_minute_of_day', 'origin_hour_flights_count', 'origin_day_flights_count', 'origin_hour_delay_rate_7d', 'origin_delay_rate_7d', 'origin_hour_delay_rate_28d', 'origin_delay_rate_28d', 'origin_hour_arrival_delay_mean_28d', 'origin']], ['yesterday', 'how late everything ran the day before', ['all_delay_rate_1d', 'carrier_delay_rate_1d', 'route_delay_rate_1d', 'destination_delay_rate_1d', 'origin_hour_delay_rate_1d', 'origin_delay_rate_1d', 'carrier_hour_delay_rate_1d', 'carrier_origin_delay_rate_1d', 'aircraft_delay_rate_1d', 'flight_number_delay_rate_1d', 'all_arrival_delay_mean_1d', 'all_not_arrived_rate_1d', 'aircraft_arrival_delay_last_3d', 'origin_evening_delay_rate_1d']], ['weather', 'weather of the evening before', ['temperature_f_last', 'dew_point_f_last', 'humidity_pct_last', 'wind_speed_mph_last', 'wind_direction_deg_last', 'precipitation_in_last', 'pressure_mb_last', 'visibility_miles_last', 'temperature_f_change_6h', 'pressure_mb_change_6h', 'wind_speed_mph_max_6h', 'visibility_miles_min_6h', 'precipitation_in_sum_24h']], ['route', 'route and destination', ['distance_miles', 'scheduled_block_minutes', 'route_air_time_mean_28d', 'destination_hour_flights_count', 'route_delay_rate_7d', 'destination_delay_rate_7d', 'route_delay_rate_28d', 'destination_delay_rate_28d', 'route_arrival_delay_mean_28d', 'route_arrivals_count_28d', 'destination']], ['aircraft', 'the planned aircraft and its legs before', ['aircraft_age_years', 'aircraft_seats', 'aircraft_legs_before_count', 'aircraft_minutes_since_previous_leg', 'aircraft_delay_rate_7d', 'aircraft_delay_rate_28d', 'aircraft_arrival_delay_mean_28d', 'aircraft_arrivals_count_28d']], ['calendar and season', 'day of the week, holidays and season', ['day_of_week', 'days_to_holiday', 'all_delay_rate_7d', 'all_delay_rate_28d', 'all_not_arrived_rate_7d']]],
    'effect_unit': 'points',
    'maturity_days': 1,
    'metric': 'roc_auc',
    'feature_view': 'flight',
    'predictions_dataset': 'predictions/flight_delayed',
    'features_dataset': 'features/flight',
    'explanations': source('ml', 'version_explanations'),
    'levels': source('ops', 'score_levels'),
    'references': source('ml', 'feature_references'),
    'words': source('ops', 'feature_words'),
    'predictions': source('predictions', 'flight_delayed')
}) }}
