"""Backtests: models and policies over past partitions, without Airflow."""
