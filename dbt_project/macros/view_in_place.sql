{#- Views are replaced in place. dbt's own way is to rename and to drop with cascade, which would take the analysts' views that
    stand on a mart with it. PostgreSQL refuses a replacement that drops or renames a column: then a person decides.
    With `meta: {security_barrier: true}` a filter of the reader is never run on rows that the view leaves out. -#}
{% materialization view_in_place, adapter="postgres" %}
    {%- set target_relation = this.incorporate(type="view") -%}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement("main") -%}
        {%- if config.get("contract").enforced %}{{ get_assert_columns_equivalent(sql) }}{% endif %}
        create or replace view {{ target_relation }}{% if config.get("meta", {}).get("security_barrier") %} with (security_barrier){% endif %} as (
            {{ sql }}
        )
    {%- endcall %}
    {% do persist_docs(target_relation, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ return({"relations": [target_relation]}) }}
{% endmaterialization %}
