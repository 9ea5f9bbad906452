-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ model_versions(spec={
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
    'versions': source('ml', 'model_versions'),
    'training_sets': source('ml', 'training_sets'),
    'promotions': source('ml', 'promotions'),
    'succession': source('ml', 'succession')
}) }}
