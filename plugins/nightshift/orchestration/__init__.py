"""The interface to Airflow: assets, defaults and task bodies."""
