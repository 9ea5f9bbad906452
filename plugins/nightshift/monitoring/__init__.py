"""From outcomes and features to performance, drift, verdicts and retrain decisions."""
