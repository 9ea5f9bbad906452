with
relations as (
    select
        classes.oid as relation_oid,
        classes.relname::text as relation_name
    from {{ source("catalog", "pg_class") }} as classes
    inner join {{ source("catalog", "pg_namespace") }} as namespaces on classes.relnamespace = namespaces.oid
    where namespaces.nspname = 'analytics' and classes.relkind in ('v', 'm', 'r', 'p')
),

columns as (
    select
        relations.relation_name,
        attributes.attnum::integer as column_position,
        attributes.attname::text as column_name,
        format_type(attributes.atttypid, attributes.atttypmod) as data_type,
        col_description(relations.relation_oid, attributes.attnum) as description,
        obj_description(relations.relation_oid, 'pg_class') as relation_description
    from relations
    inner join {{ source("catalog", "pg_attribute") }} as attributes on relations.relation_oid = attributes.attrelid
    where attributes.attnum > 0 and not attributes.attisdropped
)

select * from columns
