-- What is broken now, evaluated from what is true: incidents, what became of each, and health in one word.
create table ops.incidents (
    incident_id bigint generated always as identity primary key,
    kind text not null,
    fact_key text not null,
    code text not null,
    severity text not null check (severity in ('critical', 'warning', 'info')),
    health text not null check (health in ('caution', 'unknown', 'degraded')),
    aspect text not null check (aspect in ('publication', 'rows', 'scores', 'inputs', 'model', 'drift', 'runs', 'files', 'services', 'evaluation')),
    subject_type text not null check (subject_type in ('table', 'model', 'run', 'file', 'service', 'rule')),
    subject text not null,
    partitions date [] not null default '{}',
    owner text not null,
    opened_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz,
    n_seen bigint not null default 1,
    what text not null,
    consequence text not null,
    deadline_at timestamptz,
    command text not null,
    runbook text not null,
    touched_tables text [] not null default '{}',
    touched_models text [] not null default '{}',
    touched_consumers text [] not null default '{}',
    facts jsonb not null default '{}',
    worse_rank bigint not null,
    acknowledged_at timestamptz,
    acknowledged_by text,
    snoozed_until timestamptz,
    snoozed_by text
);
-- Two evaluators at once, and a fact that lasts: one open incident.
create unique index incidents_open_once on ops.incidents (kind, fact_key) where closed_at is null;
create index incidents_by_closing on ops.incidents (closed_at);
comment on table ops.incidents is 'What is or was broken: opened when a fact is first seen, closed by itself when it is gone, or when its rule looks no further; a fact that comes back is a new row. Grain: incident.';
comment on column ops.incidents.kind is 'The rule that found it (docs/incidents.md lists them).';
comment on column ops.incidents.fact_key is 'Which fact of the rule it is; with kind, unique among open incidents.';
comment on column ops.incidents.code is 'Error code of its cause.';
comment on column ops.incidents.severity is 'critical: readers lack or would lack a partition, or read wrong rows; warning: somebody must act within the day; info: somebody must know.';
comment on column ops.incidents.health is 'Word that it gives its subject while it is open.';
comment on column ops.incidents.aspect is 'Part of the subject''s health that it belongs to.';
comment on column ops.incidents.subject is 'table: name in the ledger (raw/<dataset>); model: its name; run: DAG and partition; file: path below the project; service; rule: kind.';
comment on column ops.incidents.partitions is 'Operating days that it concerns, in order; empty where days have no part in it.';
comment on column ops.incidents.owner is 'Team that answers for the subject; empty when nobody is named.';
comment on column ops.incidents.n_seen is 'Evaluations that have seen it.';
comment on column ops.incidents.consequence is 'What happens if nobody acts.';
comment on column ops.incidents.deadline_at is 'When that happens, UTC; null if at no known time.';
comment on column ops.incidents.command is 'The one command that is safe now.';
comment on column ops.incidents.runbook is 'Page for on-call.';
comment on column ops.incidents.touched_tables is 'Tables whose rows depend on its subject, the subject included.';
comment on column ops.incidents.touched_consumers is 'Relations of analytics that people read.';
comment on column ops.incidents.facts is 'Numbers and names behind it; no value of a row and no secret.';
comment on column ops.incidents.worse_rank is 'How bad it has been at worst: 1,000,000 for each step of severity, and the number of things concerned.';
comment on column ops.incidents.acknowledged_by is 'Who has said that they are at it.';
comment on column ops.incidents.snoozed_until is 'Nobody is reminded before; null again when it grew worse or somebody woke it.';

create table ops.incident_events (
    event_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    incident_id bigint not null references ops.incidents (incident_id),
    event text not null check (event in ('opened', 'worsened', 'closed', 'acknowledged', 'snoozed', 'woken')),
    actor text not null check (actor <> ''),
    reason text not null check (reason <> ''),
    severity text not null,
    worse_rank bigint not null
);
create index incident_events_by_incident on ops.incident_events (incident_id, event_id);
create trigger incident_events_are_append_only before update or delete on ops.incident_events
for each row execute function ops.refuse_change();
create trigger incident_events_are_never_truncated before truncate on ops.incident_events
for each statement execute function ops.refuse_change();
comment on table ops.incident_events is 'Append-only: what became of each incident, by whom and why. Grain: event.';
comment on column ops.incident_events.actor is 'evaluator, or the person.';
comment on column ops.incident_events.event is 'woken: the snooze ended before its time, by a person or because it grew worse.';

create table ops.incident_rules (
    kind text primary key,
    aspect text not null,
    evaluated_at timestamptz not null,
    succeeded_at timestamptz,
    seconds double precision not null,
    n_found bigint,
    problem text
);
comment on table ops.incident_rules is 'When each rule was last evaluated, and whether it could be. Grain: rule.';
comment on column ops.incident_rules.succeeded_at is 'When it last gave an answer; null if never.';
comment on column ops.incident_rules.problem is 'Code or class of the error of the last evaluation; null if it gave an answer.';

create table ops.health_subjects (
    subject_type text not null check (subject_type in ('table', 'model')),
    subject text not null,
    owner text not null,
    seen_at timestamptz not null default clock_timestamp(),
    primary key (subject_type, subject)
);
comment on table ops.health_subjects is 'Tables and models whose health is told: those of the specs and contracts. Grain: table or model.';

create view ops.open_incidents as
select
    i.*,
    case
        when i.snoozed_until > clock_timestamp() then 'snoozed'
        when i.acknowledged_at is not null then 'acknowledged'
        else 'open'
    end as state,
    array_position(array['info', 'warning', 'critical'], i.severity) as severity_rank
from ops.incidents i
where i.closed_at is null;
comment on view ops.open_incidents is 'What is broken now; order by severity_rank desc, opened_at. Grain: incident.';

-- A predictions table and its model are one thing for readers: publication, rows and scores count for both.
create view ops.health as
with evaluation as (
    select coalesce(max(evaluated_at) > clock_timestamp() - interval '25 minutes', false) as is_fresh, max(evaluated_at) as evaluated_at
    from ops.incident_rules
),

concerned as (
    select
        s.subject_type,
        s.subject,
        i.incident_id,
        i.opened_at,
        i.subject_type = s.subject_type and i.subject = s.subject
        or (s.subject_type = 'model' and i.subject = 'predictions/' || s.subject)
        or (
            s.subject_type = 'table' and i.subject_type = 'model' and s.subject = 'predictions/' || i.subject
            and i.aspect in ('publication', 'rows', 'scores')
        ) as is_own,
        i.aspect,
        i.health
    from ops.health_subjects s
    join ops.incidents i
        on
            i.closed_at is null
            and (
                (s.subject_type = 'table' and s.subject = any(i.touched_tables))
                or (s.subject_type = 'model' and s.subject = any(i.touched_models))
                or (i.subject_type = s.subject_type and i.subject = s.subject)
            )
),

parts as (
    select
        subject_type,
        subject,
        case when is_own then aspect else 'upstream' end as part,
        -- What is broken elsewhere is a reason for caution here, until it shows here.
        case when is_own then health else 'caution' end as word,
        incident_id,
        opened_at
    from concerned
    union all
    select s.subject_type, s.subject, 'evaluation', 'unknown', null, null
    from ops.health_subjects s
    where not (select is_fresh from evaluation)
    union all
    select s.subject_type, s.subject, r.aspect, 'unknown', null, null
    from ops.health_subjects s cross join ops.incident_rules r
    where r.problem is not null
),

worst as (
    select
        subject_type,
        subject,
        part,
        max(array_position(array['healthy', 'caution', 'unknown', 'degraded'], word)) as place,
        min(opened_at) as since,
        array_agg(distinct incident_id) filter (where incident_id is not null) as incident_ids
    from parts
    group by subject_type, subject, part
)

select
    s.subject_type,
    s.subject,
    s.owner,
    (array['healthy', 'caution', 'unknown', 'degraded'])[coalesce(max(w.place), 1)] as health,
    coalesce(
        jsonb_object_agg(w.part, (array['healthy', 'caution', 'unknown', 'degraded'])[w.place]) filter (where w.part is not null), '{}'
    ) as parts,
    min(w.since) as since,
    coalesce(
        (
            select array_agg(distinct listed.incident_id order by listed.incident_id)
            from concerned listed
            where listed.subject_type = s.subject_type and listed.subject = s.subject
        ), '{}'
    ) as incident_ids,
    (select evaluated_at from evaluation) as evaluated_at
from ops.health_subjects s
left join worst w using (subject_type, subject)
group by s.subject_type, s.subject, s.owner;
comment on view ops.health is 'Health in one word: the worst of its parts, in the order healthy, caution, unknown, degraded. Grain: table or model.';
comment on column ops.health.parts is 'Each part that is not healthy, with its word; upstream: something that it depends on is broken.';
comment on column ops.health.since is 'Since when it is not healthy, UTC; null if it is, or if only the evaluation is missing.';
comment on column ops.health.evaluated_at is 'When the rules last ran, UTC; after 25 minutes without, everything is unknown.';

-- A task whose tries are used up has nobody but a person left; what Airflow decides, the task knows itself.
alter table ops.task_tries add column is_final boolean not null default false;
comment on column ops.task_tries.is_final is 'Whether the task failed with this try for good: no try is left, or its error needs a person.';
