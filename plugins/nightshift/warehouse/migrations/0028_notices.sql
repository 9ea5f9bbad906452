-- What people are told of incidents, and what Prometheus is given.
alter table ops.loads add column peak_memory_bytes bigint;
comment on column ops.loads.peak_memory_bytes is 'Largest resident memory of the process that audited the load, its children included, until then; null for loads before this column.';
alter table ops.task_tries add column peak_memory_bytes bigint;
comment on column ops.task_tries.peak_memory_bytes is 'Largest resident memory of the try''s process, its children included; null while it runs, or when its process died.';

-- Each view of this schema is a set of metrics: text columns are labels, each number is the gauge nightshift_<view>_<column>, and the comment
-- of a column is its help. The collector reads nothing else here; a null is no sample.
create schema metrics;
comment on schema metrics is 'What Prometheus is given; nightshift metrics reads every view of it. Times are seconds since 1970.';

create view metrics.dataset as
select
    p.dataset,
    l.n_rows as rows,
    extract(epoch from p.partition_date::timestamp)::double precision as newest_partition_timestamp_seconds,
    extract(epoch from p.published_at)::double precision as published_timestamp_seconds,
    extract(epoch from l.published_at - l.started_at)::double precision as load_seconds,
    (
        (select sum(a.n_rows) from ops.loads a where a.load_id = l.load_id and a.dataset = l.dataset)
        / nullif(extract(epoch from l.published_at - l.started_at), 0)
    )::double precision as load_rows_per_second,
    l.peak_memory_bytes as load_peak_memory_bytes
from (select dataset, max(partition_date) as partition_date from ops.published group by dataset) newest
join ops.published p using (dataset, partition_date)
join ops.loads l using (dataset, partition_date, load_id);
comment on view metrics.dataset is 'The newest published partition of each dataset, and the load that made it. Grain: dataset.';
comment on column metrics.dataset.rows is 'Rows of the newest published partition.';
comment on column metrics.dataset.newest_partition_timestamp_seconds is 'Midnight UTC of its operating day.';
comment on column metrics.dataset.published_timestamp_seconds is 'When readers began to see its load.';
comment on column metrics.dataset.load_seconds is 'From the begin of its load to its publication, gate included.';
comment on column metrics.dataset.load_rows_per_second is 'Rows of its load, all partitions of a range, by the seconds of the load.';
comment on column metrics.dataset.load_peak_memory_bytes is 'Largest resident memory of the process that loaded it; tasks of shards are in nightshift_task_peak_memory_bytes.';

create view metrics.delivery as
select
    d.dataset,
    i.n_delivered as delivered_rows,
    i.n_refused as refused_rows,
    coalesce(q.open_rows, 0) as open_refused_rows,
    coalesce(f.refused_drops, 0) as refused_drops
from (select dataset, max(partition_date) as partition_date from ops.published where dataset like 'raw/%' group by dataset) d
join ops.published p using (dataset, partition_date)
left join raw.ingested_drops i using (dataset, partition_date, load_id)
left join (select dataset, count(*) as open_rows from quarantine.refused_rows where state = 'open' group by dataset) q using (dataset)
left join (
    select dataset, count(*) as refused_drops from quarantine.refused_drops
    where quarantined_at > now() - interval '1 day' group by dataset
) f using (dataset);
comment on view metrics.delivery is 'The newest delivery of each raw dataset. Grain: dataset.';
comment on column metrics.delivery.delivered_rows is 'Rows of the newest partition''s drop.';
comment on column metrics.delivery.refused_rows is 'Rows of it that were refused.';
comment on column metrics.delivery.open_refused_rows is 'Refused rows of all days about which nobody has decided.';
comment on column metrics.delivery.refused_drops is 'Files that were refused as a whole in the last 24 hours.';

create view metrics.stage as
select
    case
        when dataset like 'raw/%' then 'ingest'
        when dataset like 'predictions/%' then 'score'
        when dataset like 'monitoring%' then 'monitor'
        else 'transform'
    end as stage,
    extract(epoch from max(at))::double precision as last_success_timestamp_seconds
from ops.ledger
where event in ('published', 'duplicate')
group by 1
union all
select 'train', extract(epoch from max(created_at))::double precision from ml.model_versions having count(*) > 0
union all
select 'promotion', extract(epoch from max(at))::double precision from ml.promotions having count(*) > 0;
comment on view metrics.stage is 'When each stage last succeeded. Grain: stage.';
comment on column metrics.stage.last_success_timestamp_seconds is 'Last publication, or last load whose content stood there already; of train the last version, of promotion the last decision.';

create view metrics.champion as
select distinct on (s.model)
    s.model,
    s.version as version,
    (coalesce(n.day, current_date) - v.fit_end) * 86400 as age_seconds,
    extract(epoch from s.at)::double precision as promoted_timestamp_seconds
from ml.succession s
join ml.model_versions v using (model, version)
left join (
    select substr(dataset, length('predictions/') + 1) as model, max(partition_date) as day
    from ops.published where dataset like 'predictions/%' group by dataset
) n using (model)
where s.effective_partition <= coalesce(n.day, 'infinity'::date)
order by s.model, s.effective_partition desc, s.promotion_id desc;
comment on view metrics.champion is 'The champion of the newest published partition. Grain: model.';
comment on column metrics.champion.version is 'Its version.';
comment on column metrics.champion.age_seconds is 'From the last day that its fit has seen to the newest published partition: whole days.';
comment on column metrics.champion.promoted_timestamp_seconds is 'When it was promoted.';

create view metrics.monitor as
select distinct on (model)
    model,
    extract(epoch from partition_date::timestamp)::double precision as partition_timestamp_seconds,
    n_features as features,
    n_drifted as drifted_features,
    n_faults as broken_features,
    score_distance as score_distance,
    metric_expected as expected_quality,
    (performance_status = 'breached')::int as is_loss_breached,
    (drift_status = 'breached')::int as is_drift_breached
from monitoring.verdicts_published
order by model, partition_date desc;
comment on view metrics.monitor is 'The newest verdict of each model. Grain: model.';
comment on column metrics.monitor.partition_timestamp_seconds is 'Midnight UTC of the monitored day.';
comment on column metrics.monitor.features is 'Features that were compared with the training set.';
comment on column metrics.monitor.drifted_features is 'Features that drifted.';
comment on column metrics.monitor.broken_features is 'Features that a broken feed explains.';
comment on column metrics.monitor.score_distance is 'Distance of the scores from the training set, in usual variations from night to night.';
comment on column metrics.monitor.expected_quality is 'The watched metric on the hold-out of the version that predicted.';
comment on column metrics.monitor.is_loss_breached is '1 if the matured loss is over its limit.';
comment on column metrics.monitor.is_drift_breached is '1 if too many features drifted.';

create view metrics.quality as
select distinct on (model, metric)
    model,
    metric,
    value,
    baseline_value as baseline,
    n_labels as labels,
    extract(epoch from partition_date::timestamp)::double precision as partition_timestamp_seconds
from monitoring.performance_published
where slice_name = 'all' and maturity = 'mature'
order by model, metric, partition_date desc;
comment on view metrics.quality is 'How good the newest night turned out whose outcomes are mature. Grain: model and metric.';
comment on column metrics.quality.value is 'The metric on published predictions.';
comment on column metrics.quality.baseline is 'The metric of the fallback rule on the same rows.';
comment on column metrics.quality.labels is 'Known outcomes behind it.';
comment on column metrics.quality.partition_timestamp_seconds is 'Midnight UTC of the night that predicted.';

create view metrics.retrain as
select m.model, count(d.decision_id) as open_requests, coalesce(max(extract(epoch from now() - d.opened_at)), 0)::double precision as oldest_seconds
from (select model from ml.model_versions union select model from ops.last_good_specs) m
left join monitoring.retrain_decisions d on d.model = m.model and d.state = 'open'
group by m.model;
comment on view metrics.retrain is 'Requests to retrain that no training has closed. Grain: model.';
comment on column metrics.retrain.open_requests is 'Open requests.';
comment on column metrics.retrain.oldest_seconds is 'Age of the oldest open request; 0 without one.';

create view metrics.task as
select dag_id as dag, task_id as task, max(peak_memory_bytes) as peak_memory_bytes
from ops.task_tries
where started_at > now() - interval '7 days' and peak_memory_bytes is not null
group by dag_id, task_id;
comment on view metrics.task is 'Tasks of Airflow in the last seven days. Grain: DAG and task.';
comment on column metrics.task.peak_memory_bytes is 'Largest resident memory of a try, its children included.';

create view metrics.incidents as
select severity.name as severity, count(i.incident_id) as open, count(i.incident_id) filter (where i.state = 'open') as unacknowledged
from unnest(array['critical', 'warning', 'info']) severity (name)
left join ops.open_incidents i on i.severity = severity.name
group by severity.name;
comment on view metrics.incidents is 'What is broken now. Grain: severity.';
comment on column metrics.incidents.open is 'Open incidents.';
comment on column metrics.incidents.unacknowledged is 'Open incidents that nobody has acknowledged or snoozed.';

-- An event that a channel was told of, or that needs no message of its own; written before the message is sent.
create table ops.notices (
    notice_id bigint generated always as identity primary key,
    queued_at timestamptz not null default clock_timestamp(),
    channel text not null,
    incident_id bigint not null references ops.incidents (incident_id),
    event_id bigint not null references ops.incident_events (event_id),
    transition text not null check (transition in ('opened', 'worsened', 'closed')),
    message_key text,
    unique (channel, event_id)
);
create index notices_by_message on ops.notices (message_key);
create index notices_by_incident on ops.notices (incident_id);
create trigger notices_are_append_only before update or delete on ops.notices
for each row execute function ops.refuse_change();
create trigger notices_are_never_truncated before truncate on ops.notices
for each statement execute function ops.refuse_change();
comment on table ops.notices is 'Append-only: which event of an incident goes to which channel, and in which message. Grain: channel and event.';
comment on column ops.notices.message_key is 'Message that tells it, the same in every try (idempotency key); several events may share one. Null: a later event of the incident says it too.';

create table ops.notice_tries (
    try_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    channel text not null,
    message_key text not null,
    attempt integer not null,
    outcome text not null check (outcome in ('sent', 'failed', 'abandoned')),
    reason text,
    seconds double precision not null
);
create index notice_tries_by_message on ops.notice_tries (message_key);
create index notice_tries_by_channel on ops.notice_tries (channel, try_id);
create trigger notice_tries_are_append_only before update or delete on ops.notice_tries
for each row execute function ops.refuse_change();
create trigger notice_tries_are_never_truncated before truncate on ops.notice_tries
for each statement execute function ops.refuse_change();
comment on table ops.notice_tries is 'Append-only: each try to deliver a message, and how it ended. Grain: try.';
comment on column ops.notice_tries.outcome is 'sent: the receiver took it; failed: tried again later; abandoned: not tried any more.';
comment on column ops.notice_tries.reason is 'Why it failed; never an address, a secret or what the receiver said of a person.';

create view ops.notice_channels as
with told as (
    select channel, max(at) as last_tried_at, max(at) filter (where outcome = 'sent') as last_sent_at
    from ops.notice_tries group by channel
),

failing as (
    select f.channel, min(f.at) as failing_since, count(*) as n_failed, (array_agg(f.reason order by f.try_id desc))[1] as reason
    from ops.notice_tries f join told t using (channel)
    where f.outcome <> 'sent' and f.at > coalesce(t.last_sent_at, '-infinity')
    group by f.channel
),

pending as (
    select n.channel, count(distinct n.message_key) as n_pending
    from ops.notices n
    where n.message_key is not null
        and not exists (select from ops.notice_tries y where y.message_key = n.message_key and y.outcome <> 'failed')
    group by n.channel
)

select
    coalesce(t.channel, p.channel) as channel,
    t.last_tried_at,
    t.last_sent_at,
    f.failing_since,
    coalesce(f.n_failed, 0) as n_failed,
    f.reason,
    coalesce(p.n_pending, 0) as n_pending
from told t
full join pending p using (channel)
left join failing f on f.channel = coalesce(t.channel, p.channel);
comment on view ops.notice_channels is 'Whether each channel delivers. Grain: channel that was ever used.';
comment on column ops.notice_channels.failing_since is 'First failed try since the last delivery, UTC; null while it delivers.';
comment on column ops.notice_channels.n_pending is 'Messages that wait for delivery.';

create view metrics.notices as
select
    channel,
    n_pending as pending_messages,
    n_failed as failed_tries,
    coalesce(extract(epoch from now() - failing_since), 0)::double precision as failing_seconds,
    extract(epoch from last_sent_at)::double precision as last_sent_timestamp_seconds
from ops.notice_channels;
comment on view metrics.notices is 'Channels of notices. Grain: channel.';
comment on column metrics.notices.pending_messages is 'Messages that wait for delivery.';
comment on column metrics.notices.failed_tries is 'Failed tries since the last delivery.';
comment on column metrics.notices.failing_seconds is 'Since the first of them; 0 while it delivers.';
comment on column metrics.notices.last_sent_timestamp_seconds is 'Last delivery.';
