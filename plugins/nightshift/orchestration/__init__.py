"""The joint to Airflow: assets, defaults and task bodies."""
