"""Checks of the promotion gate that a challenger knows nothing of the future."""
