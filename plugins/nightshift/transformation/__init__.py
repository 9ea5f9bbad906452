"""From raw partitions to published feature partitions, through dbt."""
