-- Reasons by cause next to each prediction, and what is known of the features of a model.
do $do$
declare
    predictions_table regclass;
begin
    -- Tables of models that exist already; a new one is created with the column.
    for predictions_table in
        select c.oid from pg_class c
        where c.relnamespace = 'predictions'::regnamespace and c.relkind = 'r'
            and exists (select from pg_attribute where attrelid = c.oid and attname = 'score_source')
    loop
        execute format('alter table %s add column if not exists causes jsonb', predictions_table);
    end loop;
end
$do$;
-- The spec declares causes since; views of before read the column until the next migrate makes them again.
comment on column ops.feature_words.cause is 'No longer written: analytics.causes of the spec groups features.';

create table ml.feature_reports (
    model text not null,
    partition_date date not null,
    version integer,
    first_day date not null,
    last_day date not null,
    n_rows bigint not null,
    loss text not null,
    spec_digest text not null,
    left_out jsonb not null default '[]',
    seconds double precision not null,
    run_id text not null,
    made_at timestamptz not null default clock_timestamp(),
    primary key (model, partition_date)
);
comment on table ml.feature_reports is 'What the features of a model were found to be worth. Grain: model and newest partition with features.';
comment on column ml.feature_reports.version is 'Champion whose Shapley values are measured; null without one.';
comment on column ml.feature_reports.loss is 'Metric of benefits and learning curves, on days that no fit of the report has seen.';
comment on column ml.feature_reports.left_out is 'Fits that the budget of seconds did not allow.';

create table ml.feature_findings (
    model text not null,
    partition_date date not null,
    finding text not null check (finding in (
        'gain', 'shapley', 'cause', 'benefit', 'learning_days', 'learning_rows', 'learning_features', 'redundant', 'night_constant', 'seconds',
        'bytes'
    )),
    name text not null,
    period text not null default '',
    value double precision not null,
    low double precision,
    high double precision,
    note text not null default '',
    primary key (model, partition_date, finding, name, period),
    foreign key (model, partition_date) references ml.feature_reports on delete cascade
);
comment on table ml.feature_findings is 'Numbers of a feature report. Grain: report, kind of finding, name of feature or group, and period.';
comment on column ml.feature_findings.finding is 'gain: share of the trees'' gain; shapley, cause: mean absolute contribution; benefit: loss without minus loss with; learning_*: loss of a smaller fit minus loss of the whole; redundant: largest rank correlation within its group; night_constant: most distinct values on a night; seconds, bytes: per partition of a view.';
comment on column ml.feature_findings.period is 'Week (its first day), night of a version, or the group''s first feature; empty without one.';
comment on column ml.feature_findings.low is 'With high an interval that draws days, at promotion.confidence a bound.';
