-- Written by `nightshift dbt` from dags/models/arrival_delay_minutes.yaml; the SQL is in macros/.
{{ model_versions(spec={
    'name': 'arrival_delay_minutes',
    'key': 'flight_id',
    'timezone': 'America/New_York',
    'is_binary': false,
    'attributes': ['carrier', 'origin', 'destination'],
    'n_reasons': 3,
    'effect_unit': 'minutes',
    'maturity_days': 1,
    'metric': 'rmse',
    'feature_view': 'flight',
    'predictions_dataset': 'predictions/arrival_delay_minutes',
    'features_dataset': 'features/flight',
    'versions': source('ml', 'model_versions'),
    'training_sets': source('ml', 'training_sets'),
    'promotions': source('ml', 'promotions'),
    'succession': source('ml', 'succession')
}) }}
