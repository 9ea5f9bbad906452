"""A challenger that gets a share of the entities: who, since when, and when it is returned."""
