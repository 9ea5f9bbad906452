{#- The instant on the wall clock of the operating timezone. -#}
{% macro local_time(column) -%}
    ({{ column }} at time zone '{{ var("operating_timezone") }}')
{%- endmacro %}

{#- The hour of the operating day, 0 to 23. -#}
{% macro local_hour(column) -%}
    extract(hour from {{ local_time(column) }})::integer
{%- endmacro %}

{#- Whether a partition lies in the run's range or up to `days - 1` partitions before it; literals, so that the index is used. -#}
{% macro is_in_lookback(column, days=none) -%}
    {%- set partitions = as_of_by_partition().keys() | sort -%}
    {%- if partitions -%}
        {{ column }} > '{{ partitions | first }}'::date - {{ days or var("lookback_days") }} and {{ column }} <= '{{ partitions | last }}'::date
    {%- else -%}
        false
    {%- endif -%}
{%- endmacro %}
