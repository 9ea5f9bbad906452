"""What runs in Airflow's API server: parts of its plugins."""
