"""A trained model: its file, loading in a sandbox, engines and Shapley values."""
