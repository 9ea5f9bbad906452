"""Local services: PostgreSQL, S3, Airflow and MLflow as supervised processes in one folder."""
