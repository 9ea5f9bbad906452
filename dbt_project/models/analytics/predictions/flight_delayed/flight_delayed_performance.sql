-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ model_performance(spec={
    'name': 'flight_delayed',
    'key': 'flight_id',
    'timezone': 'America/New_York',
    'is_binary': true,
    'attributes': ['carrier', 'origin', 'destination'],
    'n_reasons': 3,
    'effect_unit': 'points',
    'maturity_days': 1,
    'metric': 'roc_auc',
    'feature_view': 'flight',
    'predictions_dataset': 'predictions/flight_delayed',
    'features_dataset': 'features/flight',
    'performance': source('monitoring', 'performance_published'),
    'verdicts': source('monitoring', 'verdicts_published')
}) }}
