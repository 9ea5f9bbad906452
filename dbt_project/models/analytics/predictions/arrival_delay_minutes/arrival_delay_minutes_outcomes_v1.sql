-- Written by `nightshift dbt` from dags/models/arrival_delay_minutes.yaml; the SQL is in macros/.
{{ config(pre_hook="{{ create_label_function(
    label_function=label_function('arrival_delay_minutes'),
    predictions=source('predictions', 'arrival_delay_minutes').include(database=false),
    labels=ref('fct_flight_labels').include(database=false),
    key='flight_id',
    label='arrival_delay_minutes'
) }}") }}
{{ prediction_outcomes_v1(
    predictions=source('predictions', 'arrival_delay_minutes'),
    published=source('ops', 'published'),
    label_function=label_function('arrival_delay_minutes'),
    dataset='predictions/arrival_delay_minutes',
    key='flight_id',
    maturity_days=1
) }}
