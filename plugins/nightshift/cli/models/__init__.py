"""Commands that train models and decide which version serves."""
