"""The servers of a home: PostgreSQL, the S3 server, Airflow and MLflow, one module each."""
