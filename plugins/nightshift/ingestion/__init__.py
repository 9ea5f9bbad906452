"""From a drop in the lake to a published raw partition."""
