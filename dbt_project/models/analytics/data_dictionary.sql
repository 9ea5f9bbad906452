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
        obj_description(relations.relation_oid, 'pg_class') as relation_description,
        nullif(contracts.columns -> attributes.attname ->> 'unit', '') as unit,
        nullif(contracts.columns -> attributes.attname ->> 'replaced_by', '') as replaced_by,
        contracts.model,
        contracts.grain,
        contracts.owner,
        contracts.freshness,
        contracts.version as contract_version,
        contracts.example_query,
        contracts.deprecated_by as relation_deprecated_by,
        contracts.removed_after as relation_removed_after
    from relations
    inner join {{ source("catalog", "pg_attribute") }} as attributes on relations.relation_oid = attributes.attrelid
    left join {{ source("ops", "view_contracts") }} as contracts on relations.relation_name = contracts.relation_name
    where attributes.attnum > 0 and not attributes.attisdropped
)

select * from columns
