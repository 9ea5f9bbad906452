"""Notices: tell people once when an incident opens, grows worse and ends."""
