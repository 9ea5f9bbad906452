{#- Fails on keys that occur more than once within one load of a partition. -#}
{% test unique_within_load(model, key) %}
    select {{ key }}, partition_date, load_id
    from {{ model }}
    group by {{ key }}, partition_date, load_id
    having count(*) > 1
{% endtest %}
