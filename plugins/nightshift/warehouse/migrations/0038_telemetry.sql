-- What a trace of a night needs: the stages of each try, and what was sent to which receiver already.
alter table ops.task_tries add column stages jsonb not null default '[]';
comment on column ops.task_tries.stages is 'Stages of its code in the order in which they began: name, index of the stage around it, times, outcome, attributes; empty while it runs.';

create table ops.telemetry_sent (
    receiver text not null check (receiver in ('traces', 'lineage')),
    partition_date date not null,
    key text not null,
    sent_at timestamptz not null default clock_timestamp(),
    primary key (receiver, partition_date, key)
);
create index telemetry_sent_by_time on ops.telemetry_sent (sent_at);
comment on table ops.telemetry_sent is 'Spans and lineage events that a receiver has accepted; kept for 30 days, so that nothing is sent twice. Grain: receiver, partition and key.';
comment on column ops.telemetry_sent.key is 'traces: id of the span; lineage: run and type of the event.';
