-- Written by `nightshift dbt` from dags/models/arrival_delay_minutes.yaml; the SQL is in macros/predictions.sql.
{{ current_predictions(
    predictions=source('predictions', 'arrival_delay_minutes'),
    published=source('ops', 'published'),
    dataset='predictions/arrival_delay_minutes',
    key='flight_id'
) }}
