"""Scoring a share of the entities with a challenger: never waited for, never to blame."""
