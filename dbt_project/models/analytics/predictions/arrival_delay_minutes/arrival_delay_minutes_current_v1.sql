-- Written by `nightshift dbt` from dags/models/arrival_delay_minutes.yaml; the SQL is in macros/.
{{ current_predictions_v1(
    predictions=source('predictions', 'arrival_delay_minutes'),
    published=source('ops', 'published'),
    dataset='predictions/arrival_delay_minutes',
    key='flight_id'
) }}
