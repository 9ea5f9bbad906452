"""A trained model: its files, sandboxed loading, scoring engines and Shapley values."""
