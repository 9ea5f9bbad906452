"""What Airflow's own interface shows of nightshift."""
