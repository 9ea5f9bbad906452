{#- The partitions of the run and the knowledge cut-off of each, {"2013-03-01": "2013-03-02T05:30:00+00:00"}: the variable `as_of`.
    A developer who names none gets the newest partition that is published, with all that is known now. The warehouse target never
    guesses: without partitions it makes empty relations. -#}
{% macro as_of_by_partition() -%}
    {%- if var("as_of") or target.name == "warehouse" or not execute -%}
        {{ return(var("as_of")) }}
    {%- endif -%}
    {%- set newest = run_query(
        "select max(partition_date)::text, to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"') "
        "from ops.published where dataset like 'features/%'"
    ) -%}
    {%- set day, now = newest.rows[0] -%}
    {{ return({day: now} if day else {}) }}
{%- endmacro %}
