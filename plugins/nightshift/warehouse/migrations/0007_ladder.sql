-- The ladder of scoring has four steps, and a rescue leaves a record.
do $$
declare
    table_name text;
begin
    for table_name in
        select c.conrelid::regclass::text from pg_constraint c
        where c.contype = 'c' and c.conname like '%score_source_check' and c.connamespace = 'predictions'::regnamespace
    loop
        execute format('alter table %s drop constraint %I', table_name,
            (select conname from pg_constraint where conrelid = table_name::regclass and conname like '%score_source_check'));
        execute format('alter table %s add check (score_source in (''champion'', ''previous_champion'', ''carried_over'', ''fallback_rule''))',
            table_name);
    end loop;
end $$;

create table ops.rescues (
    rescue_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    model text not null,
    partition_date date not null,
    load_id bigint not null,
    entities_from text not null,
    entities_date date not null,
    reason text not null,
    gate text not null check (gate in ('passed', 'no verdict')),
    run_id text not null,
    actor text not null
);
comment on table ops.rescues is 'Append-only record of predictions that were published without features or without a gate, so that the partition stood before its deadline. Grain: publication.';
comment on column ops.rescues.entities_from is 'Where the entities were taken from: features, list (tonight''s), repeated list, or repeated features.';
comment on column ops.rescues.entities_date is 'Partition of that load.';
comment on column ops.rescues.gate is 'passed, or no verdict: then only the checks in SQL have passed.';
create trigger rescues_are_append_only before update or delete on ops.rescues for each row execute function ops.refuse_change();
create trigger rescues_are_never_truncated before truncate on ops.rescues for each statement execute function ops.refuse_change();
