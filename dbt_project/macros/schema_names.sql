{#- In the warehouse a schema carries exactly the name of its layer. A developer's target puts its own prefix before it, so that
    `dbt run` in a shell can never replace what analysts and models read. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- if target.name == "warehouse" -%}
        {{ (custom_schema_name or target.schema) | trim }}
    {%- else -%}
        {{ target.schema }}{{ "_" ~ custom_schema_name | trim if custom_schema_name }}
    {%- endif -%}
{%- endmacro %}
