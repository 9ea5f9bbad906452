-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ current_predictions_v1(
    predictions=source('predictions', 'flight_delayed'),
    published=source('ops', 'published'),
    dataset='predictions/flight_delayed',
    key='flight_id'
) }}
