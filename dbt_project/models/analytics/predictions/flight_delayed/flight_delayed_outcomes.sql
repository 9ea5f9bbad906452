-- Written by `nightshift dbt` from dags/models/flight_delayed.yaml; the SQL is in macros/.
{{ config(pre_hook="{{ create_label_function(
    label_function=label_function('flight_delayed'),
    predictions=source('predictions', 'flight_delayed').include(database=false),
    labels=ref('fct_flight_labels').include(database=false),
    key='flight_id',
    label='is_delayed'
) }}") }}
{{ prediction_outcomes(spec={
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
    'explanations': source('ml', 'version_explanations'),
    'levels': source('ops', 'score_levels'),
    'references': source('ml', 'feature_references'),
    'words': source('ops', 'feature_words'),
    'predictions': source('predictions', 'flight_delayed'),
    'label_function': label_function('flight_delayed'),
    'features': ref('feat_flight')
}) }}
