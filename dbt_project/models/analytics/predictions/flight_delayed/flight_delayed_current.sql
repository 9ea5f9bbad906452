-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/predictions.sql.
{{ current_predictions(
    predictions=source('predictions', 'flight_delayed'),
    published=source('ops', 'published'),
    dataset='predictions/flight_delayed',
    key='flight_id'
) }}
