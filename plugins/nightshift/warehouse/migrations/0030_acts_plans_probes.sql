-- What people did and why, the plans that they bound themselves to, and the probes for leaks.

-- A function of its own: where the setup's role is not the pipeline's, that role owns the acts and this function.
create function ops.refuse_act_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_schema || '.' || tg_table_name;
end $$;

create table ops.acts (
    act_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    door text not null,
    name text not null,
    actor text not null,
    reason text not null,
    arguments jsonb not null,
    code_version text not null
);
create index acts_by_time on ops.acts (at);
comment on table ops.acts is 'Append-only record of every act of a person, written before it begins; its owner alone could disable the triggers. Grain: act.';
comment on column ops.acts.door is 'cli, or airflow (form, clear, trigger, mark).';
comment on column ops.acts.arguments is 'What was asked for; values of rows and secrets are redacted.';

create table ops.act_outcomes (
    act_id bigint primary key references ops.acts,
    at timestamptz not null default clock_timestamp(),
    outcome text not null check (outcome in ('done', 'failed')),
    code text,
    read_back jsonb not null default '{}'
);
comment on table ops.act_outcomes is 'How an act ended, as read back; an act without one runs, or its process was killed. Grain: act.';
comment on column ops.act_outcomes.code is 'Code of the error; of other errors the class.';

create trigger acts_are_append_only before update or delete on ops.acts for each row execute function ops.refuse_act_change();
create trigger acts_are_never_truncated before truncate on ops.acts for each statement execute function ops.refuse_act_change();
create trigger act_outcomes_are_append_only before update or delete on ops.act_outcomes
for each row execute function ops.refuse_act_change();
create trigger act_outcomes_are_never_truncated before truncate on ops.act_outcomes
for each statement execute function ops.refuse_act_change();

create view ops.people_acts as
select
    a.act_id,
    a.at,
    a.door,
    a.name,
    a.actor,
    a.reason,
    a.arguments,
    coalesce(o.outcome, 'unfinished') as outcome,
    o.code,
    o.read_back,
    o.at as ended_at,
    a.code_version
from ops.acts as a
left join ops.act_outcomes as o using (act_id);
comment on view ops.people_acts is 'Every act of a person with its outcome: done, failed or unfinished. Grain: act.';

create table ops.plans (
    token text primary key,
    at timestamptz not null default clock_timestamp(),
    name text not null,
    arguments jsonb not null,
    actor text not null,
    basis jsonb not null,
    steps jsonb not null,
    predicted jsonb not null,
    code_version text not null
);
comment on table ops.plans is 'What a person was shown by `nightshift plan`: apply does exactly this. Grain: token.';
comment on column ops.plans.basis is 'Digest by name of every input, code and pointer that the plan rests on.';

create table ops.plan_events (
    event_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    token text not null references ops.plans,
    event text not null check (event in ('begun', 'step', 'applied', 'failed', 'refused')),
    detail jsonb not null default '{}'
);
create index plan_events_by_token on ops.plan_events (token, event_id);
create unique index plan_is_applied_once on ops.plan_events (token) where event = 'applied';
comment on table ops.plan_events is 'Append-only record of what became of a plan, with the measured cost of each step. Grain: event.';
create trigger plans_are_append_only before update or delete on ops.plans for each row execute function ops.refuse_act_change();
create trigger plans_are_never_truncated before truncate on ops.plans for each statement execute function ops.refuse_act_change();
create trigger plan_events_are_append_only before update or delete on ops.plan_events
for each row execute function ops.refuse_act_change();
create trigger plan_events_are_never_truncated before truncate on ops.plan_events
for each statement execute function ops.refuse_act_change();

create table ml.leak_probes (
    probe_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    model text not null,
    partition_date date not null,
    load_id bigint not null,
    n_rows bigint not null,
    perturbations jsonb not null,
    leaks jsonb not null,
    seconds double precision not null,
    run_id text not null,
    code_version text not null
);
create index leak_probes_by_model on ml.leak_probes (model, partition_date);
comment on table ml.leak_probes is 'Partitions whose features were rebuilt with later rows hidden, shuffled and added. Grain: probe of a partition.';
comment on column ml.leak_probes.perturbations is 'Number of later rows by clock and source that were put before the view.';
comment on column ml.leak_probes.leaks is 'Columns that changed, by perturbation; empty where nothing leaks.';
