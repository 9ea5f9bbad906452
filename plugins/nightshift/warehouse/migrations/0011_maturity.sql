-- On how many matured labels a verdict stands, what blocked it, and its report beside it: a report is a link, not a finding.
create table monitoring.reports (
    model text not null,
    partition_date date not null,
    load_id bigint not null,
    report_key text,
    problem text,
    primary key (model, partition_date, load_id)
);
comment on table monitoring.reports is 'The drift report of a verdict, or why there is none. Grain: model, night and load of the verdict.';
insert into monitoring.reports (model, partition_date, load_id, report_key)
select model, partition_date, load_id, report_key from monitoring.verdicts where report_key is not null;

drop view monitoring.verdicts_published;
alter table monitoring.verdicts
drop column report_key,
add column severe_loss_status text not null default 'unknown' check (severe_loss_status in ('ok', 'breached', 'unknown')),
add column maturity text not null default 'immature' check (maturity in ('immature', 'maturing', 'mature')),
add column n_predictions bigint not null default 0,
add column n_never_labelled bigint not null default 0,
add column label_share double precision,
add column is_over_budget boolean not null default false,
add column red_reasons jsonb not null default '[]';
comment on column monitoring.verdicts.maturity is 'Of the night that is evaluated: mature metrics may trigger, others never do. Verdicts before this column say immature.';
comment on column monitoring.verdicts.n_predictions is 'Predictions of the evaluated night; n_never_labelled of them never get a label (a cancelled flight).';
comment on column monitoring.verdicts.label_share is 'Share of the predictions that can get a label whose label was known; null without any.';
comment on column monitoring.verdicts.red_reasons is 'Why the data of the night could not be trusted when it was first judged; a red night opens no decision.';

alter table monitoring.performance
add column maturity text not null default 'immature' check (maturity in ('immature', 'maturing', 'mature'));

create view monitoring.verdicts_published as
select t.*, r.report_key, r.problem as report_problem, d.decision_id, d.state as decision_state from monitoring.verdicts t
join ops.published p on p.dataset = 'monitoring/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id
left join monitoring.reports r on r.model = t.model and r.partition_date = t.partition_date and r.load_id = t.load_id
left join monitoring.retrain_decisions d on t.has_triggered and d.model = t.model and d.partition_date = t.partition_date;
comment on view monitoring.verdicts_published is 'The verdict of a night, and the decision that it opened. Grain: model and night.';

create or replace view monitoring.performance_published as
select
    t.model,
    t.evaluated_partition as partition_date,
    t.partition_date as measured_on,
    t.slice_name,
    t.slice_value,
    t.metric,
    t.value,
    t.baseline_value,
    t.n_labels,
    t.model_version,
    t.maturity
from monitoring.performance t
join ops.published p on p.dataset = 'monitoring_performance/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;

create view monitoring.label_maturity as
select
    substr(p.dataset, length('predictions/') + 1) as model,
    p.partition_date,
    coalesce(v.maturity, 'immature') as maturity,
    coalesce(v.n_labels, 0) as n_labels,
    v.label_share,
    v.partition_date as measured_on
from ops.published p
left join monitoring.verdicts_published v
    on 'predictions/' || v.model = p.dataset and v.evaluated_partition = p.partition_date
where p.dataset like 'predictions/%';
comment on view monitoring.label_maturity is 'How far the labels of each published night are; immature until a later night has evaluated it. Grain: model and night that predicted.';
