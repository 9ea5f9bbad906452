"""From a champion and a feature partition to a published prediction partition."""
