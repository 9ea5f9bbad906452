-- What the page shows: views of specs, publications, champions, volumes and steps, each readable by anybody who may read ops and ml.
alter table ops.last_good_specs add column timezone text;
comment on column ops.last_good_specs.timezone is 'Operating timezone of the project that stored it; null until the next migrate or scoring.';

create view ops.model_facts as
select
    s.model,
    s.spec ->> 'description' as description,
    s.spec ->> 'task' as task,
    s.spec ->> 'owner' as owner,
    s.spec ->> 'runbook' as runbook,
    (s.spec ->> 'deadline')::time as deadline,
    coalesce(s.timezone, 'UTC') as timezone,
    s.spec ->> 'feature_view' as feature_view,
    s.spec -> 'promotion' ->> 'metric' as promotion_metric,
    s.spec -> 'monitoring' ->> 'metric' as monitoring_metric,
    s.kept_at
from (select model, kept_at, timezone, spec::jsonb as spec from ops.last_good_specs) s;
comment on view ops.model_facts is 'The part of each model''s last good spec that people ask for. Grain: model.';
comment on column ops.model_facts.deadline is 'Local time in timezone, on the morning after the partition''s day.';

create view ops.model_partitions as
select
    f.model,
    p.partition_date,
    p.load_id,
    l.n_rows,
    l.run_id,
    ((p.partition_date + 1) + f.deadline) at time zone f.timezone as deadline_at,
    e.first_published_at,
    p.published_at,
    e.n_publications,
    l.detail -> 'score_sources' ->> p.partition_date::text as score_source,
    coalesce(l.detail -> 'score_sources' ->> p.partition_date::text not in ('champion', 'named_version'), false) as is_fallback,
    e.n_publications > 1 as is_republished,
    e.first_published_at > ((p.partition_date + 1) + f.deadline) at time zone f.timezone
    and e.first_published_at <= ((p.partition_date + 8) + f.deadline) at time zone f.timezone as is_late,
    e.first_published_at > ((p.partition_date + 8) + f.deadline) at time zone f.timezone as is_backfilled
from ops.model_facts f
join ops.published p on p.dataset = 'predictions/' || f.model
left join ops.loads l using (dataset, partition_date, load_id)
cross join lateral (
    select min(g.at) as first_published_at, count(*) as n_publications
    from ops.ledger g
    where g.dataset = p.dataset and g.partition_date = p.partition_date and g.event = 'published'
) e;
comment on view ops.model_partitions is 'Published predictions: when, by which step of the fallback chain, and against which deadline. Grain: model and partition.';
comment on column ops.model_partitions.score_source is 'Step of the fallback chain that the load was planned with; null for loads that code of before has made.';
comment on column ops.model_partitions.n_publications is 'How often another content was published; 1 for a partition that was never published again.';
comment on column ops.model_partitions.is_late is 'First published after the deadline, by seven days at most.';
comment on column ops.model_partitions.is_backfilled is 'First published more than seven days after the deadline: a past day that was made later.';

create view ops.model_calendar as
with spans as (
    select
        f.model,
        d.first_day,
        d.last_day,
        -- The last day whose deadline has passed: the deadline of a day is on the next morning.
        (n.local_now::date - case when n.local_now::time >= f.deadline then 1 else 2 end) as due_day
    from ops.model_facts f
    cross join lateral (select clock_timestamp() at time zone f.timezone as local_now) n
    join lateral (
        select min(partition_date) as first_day, max(partition_date) as last_day
        from ops.published p
        where p.dataset = 'predictions/' || f.model
    ) d on d.first_day is not null
)

select
    s.model,
    day.day::date as partition_date,
    m.load_id,
    m.n_rows,
    m.deadline_at,
    m.first_published_at,
    m.published_at,
    m.n_publications,
    m.score_source,
    case
        when m.load_id is null then 'hole'
        when m.is_fallback then 'fallback'
        when m.is_late then 'late'
        when m.is_republished then 'republished'
        when m.is_backfilled then 'backfilled'
        else 'published'
    end as status
from spans s
-- A replay of a past year is not a year of holes since then: only the month after the last publication counts.
cross join lateral generate_series(
    s.first_day::timestamp, case when s.due_day - s.last_day between 0 and 31 then s.due_day else s.last_day end, interval '1 day'
) day (day)
left join ops.model_partitions m on m.model = s.model and m.partition_date = day.day::date;
comment on view ops.model_calendar is 'Every day from a model''s first to its last publication, and until its last deadline if that is at most 31 days later, in one word. Grain: model and day.';
comment on column ops.model_calendar.status is 'hole: nothing is published; else the first that is true of fallback, late, republished, backfilled; else published.';

create view ops.model_progress as
select
    f.model,
    f.owner,
    f.deadline,
    f.timezone,
    t.partition_date,
    ((t.partition_date + 1) + f.deadline) at time zone f.timezone as deadline_at,
    v.published_at as features_published_at,
    p.published_at as predictions_published_at,
    n.newest,
    c.version as champion_version,
    c.effective_partition as champion_since
from ops.model_facts f
cross join lateral (select clock_timestamp() at time zone f.timezone as local_now) o
-- The partition whose deadline is next.
cross join lateral (select o.local_now::date - case when o.local_now::time < f.deadline then 1 else 0 end as partition_date) t
left join ops.published v on v.dataset = 'features/' || f.feature_view and v.partition_date = t.partition_date
left join ops.published p on p.dataset = 'predictions/' || f.model and p.partition_date = t.partition_date
left join lateral (
    select max(q.partition_date) as newest from ops.published q where q.dataset = 'predictions/' || f.model
) n on true
left join lateral (
    select s.version, s.effective_partition
    from ml.succession s
    where s.model = f.model
    order by s.effective_partition desc, s.promotion_id desc
    limit 1
) c on true;
comment on view ops.model_progress is 'How far the partition with the next deadline is, and who is champion. Grain: model.';

create view ops.partition_steps as
select
    t.partition_date,
    'task' as step_type,
    t.dag_id || '.' || t.task_id || case when t.map_index >= 0 then '[' || t.map_index || ']' else '' end as step,
    t.dag_id,
    t.dag_run_id as run_id,
    null::bigint as load_id,
    t.attempt,
    t.started_at,
    t.ended_at,
    t.outcome
from ops.task_tries t
union all
select l.partition_date, 'load', l.dataset, null, l.run_id, l.load_id, l.attempt, l.started_at, l.published_at, l.state
from ops.loads l;
comment on view ops.partition_steps is 'What a partition''s run did and when: tries of Airflow''s tasks, and loads of the write path. Grain: try, or dataset and load.';
comment on column ops.partition_steps.ended_at is 'task: its code ended; load: it was published; null while it runs, or if it never got there.';
comment on column ops.partition_steps.outcome is 'task: as ops.task_tries; load: its state.';
create index task_tries_by_day on ops.task_tries (partition_date);
create index loads_by_day on ops.loads (partition_date);

create view ops.dataset_volumes as
select
    p.dataset,
    p.partition_date,
    p.load_id,
    p.published_at,
    l.known_at,
    l.n_rows,
    case when count(*) over before >= 7 then greatest(avg(l.n_rows) over before - 3 * stddev_samp(l.n_rows) over before, 0)::double precision end as expected_low,
    case when count(*) over before >= 7 then (avg(l.n_rows) over before + 3 * stddev_samp(l.n_rows) over before)::double precision end as expected_high
from ops.published p
join ops.loads l using (dataset, partition_date, load_id)
window before as (partition by p.dataset order by p.partition_date rows between 28 preceding and 1 preceding);
comment on view ops.dataset_volumes is 'Rows of each published partition, and the band that its 28 published days before make likely. Grain: dataset and partition.';
comment on column ops.dataset_volumes.expected_low is 'Mean minus three standard deviations of the 28 published days before, not below 0; null with fewer than 7.';

create view ops.dataset_freshness as
select n.dataset, n.first_partition, n.newest_partition, n.n_partitions, p.load_id, p.published_at, l.known_at, l.n_rows
from (
    select dataset, min(partition_date) as first_partition, max(partition_date) as newest_partition, count(*) as n_partitions
    from ops.published
    group by dataset
) n
join ops.published p on p.dataset = n.dataset and p.partition_date = n.newest_partition
left join ops.loads l on l.dataset = p.dataset and l.partition_date = p.partition_date and l.load_id = p.load_id;
comment on view ops.dataset_freshness is 'The newest published partition of each dataset. Grain: dataset.';

create view quarantine.row_counts as
select dataset, partition_date, reason, column_name, state, count(*) as n_rows
from quarantine.refused_rows
group by dataset, partition_date, reason, column_name, state;
comment on view quarantine.row_counts is 'How many rows were refused, why, and what became of them; no value of a row. Grain: dataset, partition, reason, column and state.';

create view quarantine.drop_counts as
select dataset, partition_date, code, count(*) as n_drops, max(quarantined_at) as last_at
from quarantine.refused_drops
group by dataset, partition_date, code;
comment on view quarantine.drop_counts is 'How many files were refused as a whole, by error code. Grain: dataset, partition and code.';

create view ml.decisions as
select
    p.promotion_id,
    p.at,
    p.model,
    p.version,
    p.verdict,
    p.champion_version,
    p.partition_date,
    p.effective_partition,
    p.reasons,
    p.actor,
    p.evidence_page,
    v.created_at as trained_at,
    v.fit_end,
    v.metrics,
    v.figures,
    v.metadata_key,
    v.metadata_sha256
from ml.promotions p
join ml.model_versions v using (model, version);
comment on view ml.decisions is 'Every decision about a version, with what the version is and the keys of its evidence. Grain: decision.';

create view ml.champion_periods as
select
    s.model,
    s.version,
    s.promotion_id,
    s.verdict,
    s.actor,
    s.effective_partition as first_partition,
    lead(s.effective_partition) over (partition by s.model order by s.effective_partition, s.promotion_id) - 1 as last_partition,
    v.created_at as trained_at,
    v.fit_end
from ml.succession s
join ml.model_versions v using (model, version);
comment on view ml.champion_periods is 'Who was champion for which partitions. Grain: decision that stands.';
comment on column ml.champion_periods.last_partition is 'Included; null for the champion of today; before first_partition where a later decision took effect on the same day.';
