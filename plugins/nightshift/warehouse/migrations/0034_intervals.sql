-- How sure each prediction is: median and interval of a row, and what they were made from.
do $do$
declare
    predictions_table regclass;
begin
    -- Tables of models that exist already; a new one is created with the columns.
    for predictions_table in
        select c.oid from pg_class c
        where c.relnamespace = 'predictions'::regnamespace and c.relkind = 'r'
            and exists (select from pg_attribute where attrelid = c.oid and attname = 'score_source')
    loop
        execute format(
            'alter table %s add column if not exists median double precision,'
            ' add column if not exists interval_low double precision,'
            ' add column if not exists interval_high double precision', predictions_table
        );
    end loop;
end
$do$;

alter table ops.score_levels
    add column interval jsonb,
    add column interval_reason text;
comment on column ops.score_levels.interval is 'How far outcomes lie from the predictions: level, offsets by predicted value (of a binary model one shift of the log-odds), the nights they rest on; null without one.';
comment on column ops.score_levels.interval_reason is 'Why there is no interval; null with one, and where the spec wants none.';
