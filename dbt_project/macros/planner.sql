{#- PostgreSQL cannot estimate aggregates of aggregates: it expects a handful of rows where there are millions, and plans nested loops, merge
    joins on half a key and sorts. Hashing everything took 33 s for a year where the default took over an hour (docs/adr/0006-dbt-loads.md).
    Holds until the end of the model's transaction. -#}
{% macro prefer_hashing() -%}
    set local enable_nestloop = off; set local enable_mergejoin = off; set local enable_sort = off; set local jit = off
{%- endmacro %}
