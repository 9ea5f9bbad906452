"""The page for people: read-only, made on the server, in Airflow's interface and without it."""
