"""What is broken now: rules, the list of incidents, and health in one word."""
