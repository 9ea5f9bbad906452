-- Reasons by cause next to each prediction, and what is known of the features of a model.
do $do$
declare
    predictions_table regclass;
begin
    -- Tables of models that exist already; a new one is created with the column.
    for predictions_table in
        select c.oid from pg_class c
        where c.relnamespace = 'predictions'::regnamespace and c.relkind = 'r'
            and exists (select from pg_attribute where attrelid = c.oid and attname = 'score_source_reason')
    loop
        execute format('alter table %s add column if not exists causes jsonb', predictions_table);
    end loop;
end
$do$;
-- The spec declares causes since; views of before read the column until the next migrate makes them again.
comment on column ops.feature_words.cause is 'No longer written: analytics.causes of the spec groups features.';
