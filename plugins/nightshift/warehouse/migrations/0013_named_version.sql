-- A range may be scored by a version that a person names.
do $$
declare
    found record;
begin
    for found in
        select c.conrelid::regclass::text as table_name, c.conname from pg_constraint c
        where c.contype = 'c' and c.conname like '%score_source_check' and c.connamespace = 'predictions'::regnamespace
    loop
        execute format('alter table %s drop constraint %I', found.table_name, found.conname);
        execute format(
            'alter table %s add check (score_source in '
            '(''champion'', ''named_version'', ''previous_champion'', ''carried_over'', ''fallback_rule''))', found.table_name);
    end loop;
end $$;
