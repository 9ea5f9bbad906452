-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ prediction_history_v1(
    predictions=source('predictions', 'flight_delayed'),
    loads=source('ops', 'loads'),
    dataset='predictions/flight_delayed',
    key='flight_id'
) }}
