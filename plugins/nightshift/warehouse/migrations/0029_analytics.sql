-- What the analysts' views say besides numbers: words of features, usual values and base of a version, contracts of views and models.
create table ops.feature_words (
    feature_view text not null,
    feature text not null,
    label text not null,
    unit text not null default '',
    cause text not null default '',
    description text not null default '',
    primary key (feature_view, feature)
);
comment on table ops.feature_words is 'A feature in a person''s words, from the dbt model of its view. Grain: feature view and feature.';
comment on column ops.feature_words.label is 'meta.label of the column; without one its name with spaces.';
comment on column ops.feature_words.unit is 'meta.unit; share is shown as a percentage.';
comment on column ops.feature_words.cause is 'meta.cause: the group of features that a person would name as one reason.';

create table ml.version_explanations (
    model text not null,
    version integer not null,
    base_raw double precision not null,
    base_probability double precision,
    primary key (model, version),
    foreign key (model, version) references ml.model_versions (model, version)
);
comment on table ml.version_explanations is 'What a version answers before it knows a row: contributions add up from here. Grain: model and version.';
comment on column ml.version_explanations.base_raw is 'Expected raw score: log-odds of a binary model, else the label''s unit.';
comment on column ml.version_explanations.base_probability is 'The same, calibrated; null unless binary.';

create table ml.feature_references (
    model text not null,
    version integer not null,
    feature text not null,
    usual_low double precision,
    usual_high double precision,
    usual_level text,
    primary key (model, version, feature),
    foreign key (model, version) references ml.version_explanations (model, version)
);
comment on table ml.feature_references is 'Usual values of a feature in the training rows of a version. Grain: model, version and feature.';
comment on column ml.feature_references.usual_low is 'At most a fifth of the training rows lies below; null where no bin ends there.';
comment on column ml.feature_references.usual_high is 'At most a fifth of the training rows lies above; null where no bin ends there.';
comment on column ml.feature_references.usual_level is 'Most frequent level of a categorical feature.';

create table ops.analytics_models (
    model text primary key,
    description text not null,
    task text not null,
    owner text not null,
    runbook text not null,
    deadline time not null,
    timezone text not null,
    entity text not null,
    predictions_dataset text not null,
    features_dataset text not null,
    kept_at timestamptz not null default clock_timestamp()
);
comment on table ops.analytics_models is 'What analysts are promised of a model, from its spec. Grain: model.';
comment on column ops.analytics_models.deadline is 'Local time on the morning after the partition''s day.';

create table ops.view_contracts (
    relation_name text primary key,
    model text,
    version text not null,
    owner text not null,
    grain text not null,
    freshness text not null,
    example_query text not null,
    deprecated_by text,
    removed_after date,
    columns jsonb not null default '{}',
    kept_at timestamptz not null default clock_timestamp()
);
comment on table ops.view_contracts is 'The contract of a view in schema analytics, as it was created. Grain: view.';
comment on column ops.view_contracts.version is 'Semantic version: a column that goes, changes its type or its order raises the first number, a new column the second.';
comment on column ops.view_contracts.columns is 'By name: unit, and what replaces a deprecated column.';

-- Every load that readers can see or have seen, with the features that it was scored on. A function, because a view is planned with the
-- settings of its reader: its scan is never repeated, and PostgreSQL joins with it as with a small table.
create function predictions.published_loads(of_dataset text, of_features text)
returns table (
    partition_date date, load_id bigint, published_at timestamptz, superseded_at timestamptz, is_current boolean, feature_load_id bigint
)
language sql stable security definer rows 1000
set search_path = pg_catalog, pg_temp set enable_nestloop = on
as $body$
select l.partition_date, l.load_id, l.published_at, l.superseded_at, p.load_id is not null, (
    -- Those that were published when the scoring began.
    select f.load_id from ops.loads f
    where f.dataset = of_features and f.partition_date = l.partition_date and f.state = 'published' and f.published_at <= l.started_at
    order by f.published_at desc, f.load_id desc limit 1
)
from ops.loads l
left join ops.published p on p.dataset = l.dataset and p.partition_date = l.partition_date and p.load_id = l.load_id
where l.dataset = of_dataset and l.state = 'published'
$body$;
comment on function predictions.published_loads is 'Loads of a model that were ever published, and the feature load of each.';

-- Rows of one load by step of the fallback chain, and what they know; nothing for a model without a table.
create function predictions.load_summary(of_model text, of_day date, of_load bigint) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $body$
declare
    summary jsonb;
begin
    if to_regclass(format('predictions.%I', of_model)) is null then
        return '{"rows": {}}';
    end if;
    execute format(
        'select jsonb_build_object(''rows'', coalesce(jsonb_object_agg(score_source, n), ''{}''), ''known_as_of'', min(as_of)) from ('
        'select score_source, count(*) as n, min(features_as_of) as as_of'
        ' from predictions.%I where partition_date = $1 and load_id = $2 group by 1) s', of_model
    ) into summary using of_day, of_load;
    return summary;
end
$body$;
comment on function predictions.load_summary is 'Of one load: rows by step of the fallback chain, and the oldest knowledge cut-off of a row.';

-- A reason as a person reads it: three digits, thousands grouped, the unit. It sets no search path, which would cost as much as the rest:
-- it uses nothing but pg_catalog, which is always searched first.
create function predictions.reason_in_words(
    label text, value jsonb, unit text, usual_low double precision, usual_high double precision, usual_level text,
    effect double precision, effect_unit text, value_before jsonb default null
) returns text
language plpgsql immutable
as $body$
declare
    is_number boolean := jsonb_typeof(value) = 'number';
    factor double precision := case when unit = 'share' then 100 else 1 end;
    words text := label;
    numbers double precision[];
    number double precision;
    size double precision;
    shown text[] := '{}';
    value_words text;
begin
    numbers := array[
        case when is_number then (value #>> '{}')::double precision * factor end, usual_low * factor, usual_high * factor, abs(effect),
        case when jsonb_typeof(value_before) = 'number' then (value_before #>> '{}')::double precision * factor end
    ];
    foreach number in array numbers loop
        size := abs(number);
        shown := shown || case
            when number is null then null
            when size < 0.0005 then '0'
            when size < 0.9995 then rtrim(to_char(number, 'FM0.999'), '.')
            when size < 9.995 then rtrim(to_char(number, 'FM990.99'), '.')
            when size < 99.95 then rtrim(to_char(number, 'FM990.9'), '.')
            when size < 1e15 then to_char(number, 'FM999,999,999,999,999,990')
            else number::text
        end;
    end loop;
    value_words := case jsonb_typeof(value)
        when 'number' then shown[1] || case when unit = 'share' then ' %' when coalesce(unit, '') = '' then '' else ' ' || unit end
        when 'string' then value #>> '{}'
        when 'boolean' then case when value::boolean then 'yes' else 'no' end
        else 'unknown'
    end;
    if value_before is not null then
        if value_before <> value then
            words := words || ' ' || case jsonb_typeof(value_before)
                when 'number' then shown[5]
                when 'string' then value_before #>> '{}'
                when 'boolean' then case when value_before::boolean then 'yes' else 'no' end
                else 'unknown'
            end || ' →';
        end if;
        words := words || ' ' || value_words;
    else
        words := words || ' ' || value_words || case
            when usual_level is not null then ' (usual ' || usual_level || ')'
            when usual_low is null and usual_high is null then ''
            when usual_low is null then ' (usual up to ' || shown[3] || ')'
            when usual_high is null then ' (usual from ' || shown[2] || ')'
            when shown[2] = shown[3] then ' (usual ' || shown[2] || ')'
            else ' (usual ' || shown[2] || '–' || shown[3] || ')'
        end;
    end if;
    if effect is null then
        return words;
    end if;
    -- An effect that is shown as zero still has its direction.
    return words || case when effect < 0 then ': −' else ': +' end || shown[4]
        || case when effect_unit = '' then '' else ' ' || effect_unit end;
end
$body$;
comment on function predictions.reason_in_words is 'A reason in words, such as: pressure 1,020 hPa (usual 1,013–1,018): −11 points.';

-- Differences of published contributions of one entity: exact where both lists have the feature, or the list without it is complete.
create function predictions.contribution_changes(
    before jsonb, after jsonb, is_before_complete boolean, is_after_complete boolean,
    scale_before double precision, scale_after double precision, factor double precision
) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $body$
select coalesce(jsonb_agg(
    jsonb_build_object(
        'feature', feature, 'value_before', value_before, 'value_after', value_after,
        'contribution_before', contribution_before, 'contribution_after', contribution_after,
        'change', change, 'effect', effect
    ) order by abs(effect) desc nulls last, feature
), '[]')
from (
    select *, contribution_after - contribution_before as change,
        (contribution_after * scale_after - contribution_before * scale_before) * factor as effect
    from (
        select coalesce(a.feature, b.feature) as feature, b.value as value_before, a.value as value_after,
            coalesce(b.contribution, case when is_before_complete then 0 end) as contribution_before,
            coalesce(a.contribution, case when is_after_complete then 0 end) as contribution_after
        from jsonb_to_recordset(before) b (feature text, value jsonb, contribution double precision)
        full join jsonb_to_recordset(after) a (feature text, value jsonb, contribution double precision) using (feature)
    ) both_lists
) differences
$body$;
comment on function predictions.contribution_changes is 'Contributions of two predictions by feature; change and effect are null where one of the two was not published.';

create function predictions.sum_of_contributions(reasons jsonb) returns double precision
language sql immutable
set search_path = pg_catalog, pg_temp
as $body$
select coalesce(sum((reason ->> 'contribution')::double precision), 0) from jsonb_array_elements(reasons) reason
$body$;
comment on function predictions.sum_of_contributions is 'What the listed reasons add to the raw score.';

create function predictions.sum_of_effects(changes jsonb) returns double precision
language sql immutable
set search_path = pg_catalog, pg_temp
as $body$
select coalesce(sum((change ->> 'effect')::double precision), 0) from jsonb_array_elements(changes) change
$body$;
comment on function predictions.sum_of_effects is 'What the known changes of contribution_changes add up to.';

insert into ops.view_contracts (relation_name, version, owner, grain, freshness, example_query) values
('health', '1.0.0', 'nightshift', 'one row per model', 'as of the query', 'select * from analytics.health'),
('data_dictionary', '2.0.0', 'nightshift', 'one row per column of a view', 'as of the query',
    'select column_name, unit, description from analytics.data_dictionary where relation_name = ''health'' order by column_position');
