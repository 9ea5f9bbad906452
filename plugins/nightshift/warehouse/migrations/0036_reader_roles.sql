-- Which roles read here by right: one that is dropped leaves no trace in the catalog, and nobody else would miss it.
create table ops.reader_roles (
    role text primary key,
    relations text [],
    granted_at timestamptz not null default clock_timestamp()
);
comment on table ops.reader_roles is 'Roles that nightshift migrate has given rights to read; a rule of incidents compares them with the catalog. Grain: role.';
comment on column ops.reader_roles.relations is 'What the role must be able to read; null for all views of schema analytics.';
