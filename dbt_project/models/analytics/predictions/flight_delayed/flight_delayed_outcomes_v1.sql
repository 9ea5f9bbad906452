-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ config(pre_hook="{{ create_label_function(
    label_function=label_function('flight_delayed'),
    predictions=source('predictions', 'flight_delayed').include(database=false),
    labels=ref('fct_flight_labels').include(database=false),
    key='flight_id',
    label='is_delayed'
) }}") }}
{{ prediction_outcomes_v1(
    predictions=source('predictions', 'flight_delayed'),
    published=source('ops', 'published'),
    label_function=label_function('flight_delayed'),
    dataset='predictions/flight_delayed',
    key='flight_id',
    maturity_days=1
) }}
