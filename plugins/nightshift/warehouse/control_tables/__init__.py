"""Small tables that control the pipeline: retrain requests, last good specs, waiting tasks."""
