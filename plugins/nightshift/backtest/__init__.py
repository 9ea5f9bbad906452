"""Backtests: models and policies over past nights, without Airflow."""
