with
clocks (partition_date, as_of) as (
    {% for day, as_of in as_of_by_partition() | dictsort -%}
    select '{{ day }}'::date, '{{ as_of }}'::timestamptz{% if not loop.last %} union all{% endif %}
    {% else -%}
    select null::date, null::timestamptz where false
    {%- endfor %}
)

select * from clocks
