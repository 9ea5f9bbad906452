{#- Fails on combinations of columns that occur more than once. -#}
{% test unique_together(model, key) %}
    select {{ key }}
    from {{ model }}
    group by {{ key }}
    having count(*) > 1
{% endtest %}
