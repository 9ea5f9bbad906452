"""From feature partitions to an evaluated challenger."""
