-- When we received a drop, beside when upstream says that it delivered it; and what a person decided about one.
create table ops.received_drops (
    dataset text not null,
    partition_date date not null,
    source_uri text not null,
    source_sha256 text not null,
    known_at timestamptz not null,
    received_at timestamptz not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (dataset, partition_date, source_uri, source_sha256, known_at)
);
create trigger received_drops_are_append_only before update or delete on ops.received_drops
for each row execute function ops.refuse_change();
create trigger received_drops_are_never_truncated before truncate on ops.received_drops
for each statement execute function ops.refuse_change();
comment on table ops.received_drops is 'Append-only: when the lake took each drop that an ingest or a sweep has seen. Grain: file and manifest.';
comment on column ops.received_drops.known_at is 'delivered_at of the manifest: upstream''s word.';
comment on column ops.received_drops.received_at is 'The time of the store''s own clock for the manifest when it was first seen; a later overwrite changes nothing here.';

create table ops.drop_decisions (
    decision_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    dataset text not null,
    partition_date date not null,
    action text not null check (action in ('withdrawn', 'set_aside')),
    object_key text not null,
    source_sha256 text not null,
    actor text not null,
    reason text not null check (reason <> ''),
    unique (object_key, source_sha256)
);
create index drop_decisions_by_partition on ops.drop_decisions (dataset, partition_date);
create trigger drop_decisions_are_append_only before update or delete on ops.drop_decisions
for each row execute function ops.refuse_change();
create trigger drop_decisions_are_never_truncated before truncate on ops.drop_decisions
for each statement execute function ops.refuse_change();
comment on table ops.drop_decisions is 'Append-only: drops that a person withdrew and manifests that a person set aside; the objects stay in the lake. Grain: object.';
comment on column ops.drop_decisions.object_key is 'withdrawn: the data file; set_aside: the manifest.';
