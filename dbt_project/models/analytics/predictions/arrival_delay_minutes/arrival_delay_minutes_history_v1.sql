-- Written by `nightshift dbt` from dags/models/arrival_delay_minutes.yaml; the SQL is in macros/.
{{ prediction_history_v1(
    predictions=source('predictions', 'arrival_delay_minutes'),
    loads=source('ops', 'loads'),
    dataset='predictions/arrival_delay_minutes',
    key='flight_id'
) }}
