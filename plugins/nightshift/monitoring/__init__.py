"""Outcomes, performance, drift, verdicts and retrain requests."""
