-- Written by `nightshift dbt` from dags/models/arrival_delay_minutes.yaml; the SQL is in macros/.
{{ config(pre_hook="{{ create_label_function(
    label_function=label_function('arrival_delay_minutes'),
    predictions=source('predictions', 'arrival_delay_minutes').include(database=false),
    labels=ref('fct_flight_labels').include(database=false),
    key='flight_id',
    label='arrival_delay_minutes'
) }}") }}
{{ prediction_outcomes(spec={
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
    'explanations': source('ml', 'version_explanations'),
    'levels': source('ops', 'score_levels'),
    'references': source('ml', 'feature_references'),
    'words': source('ops', 'feature_words'),
    'predictions': source('predictions', 'arrival_delay_minutes'),
    'label_function': label_function('arrival_delay_minutes'),
    'features': ref('feat_flight')
}) }}
