"""Airflow loads this file: it puts the page into the navigation of Airflow's interface."""

from nightshift.orchestration.interface.plugin import NightshiftPlugin

__all__ = ["NightshiftPlugin"]
