with
relations as (
    select
        relation.oid as relation_oid,
        relation.relname::text as relation_name
    from {{ source("catalog", "pg_class") }} as relation
    inner join {{ source("catalog", "pg_namespace") }} as namespace on relation.relnamespace = namespace.oid
    where namespace.nspname = 'analytics' and relation.relkind in ('v', 'm', 'r', 'p')
),

columns as (
    select
        relations.relation_name,
        attribute.attnum::integer as position,
        attribute.attname::text as column_name,
        format_type(attribute.atttypid, attribute.atttypmod) as data_type,
        col_description(relations.relation_oid, attribute.attnum) as description,
        obj_description(relations.relation_oid, 'pg_class') as relation_description
    from relations
    inner join {{ source("catalog", "pg_attribute") }} as attribute on relations.relation_oid = attribute.attrelid
    where attribute.attnum > 0 and not attribute.attisdropped
)

select * from columns
