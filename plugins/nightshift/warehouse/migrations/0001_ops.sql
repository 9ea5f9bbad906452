-- Schemas, and the tables of the write path. Applied once, in one transaction, by nightshift.warehouse.migrate.
create schema if not exists raw;
create schema if not exists staging;
create schema if not exists intermediate;
create schema if not exists marts;
create schema if not exists features;
create schema if not exists ml;
create schema if not exists predictions;
create schema if not exists monitoring;
create schema if not exists quarantine;
create schema if not exists ops;
create schema if not exists analytics;

create sequence ops.load_id_seq;

create table ops.fences (
    dataset text not null,
    partition_date date not null,
    token bigint not null,
    primary key (dataset, partition_date)
);
comment on table ops.fences is 'Who may publish a partition: the attempt that holds the highest token. Grain: dataset and partition.';

create table ops.loads (
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    token bigint not null,
    state text not null check (state in ('staged', 'audited', 'published', 'duplicate', 'refused', 'collected')),
    run_id text not null,
    attempt integer not null,
    actor text not null,
    code_version text not null,
    inputs jsonb not null,
    inputs_digest text not null,
    known_at timestamptz,
    n_rows bigint,
    content_hash text,
    detail jsonb not null default '{}',
    started_at timestamptz not null default clock_timestamp(),
    published_at timestamptz,
    superseded_at timestamptz,
    primary key (dataset, partition_date, load_id)
);
create index loads_by_load_id on ops.loads (load_id);
comment on table ops.loads is 'The run manifest of every load ever begun. Grain: dataset, partition and load.';

create table ops.published (
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    token bigint not null,
    published_at timestamptz not null default clock_timestamp(),
    primary key (dataset, partition_date)
);
comment on table ops.published is 'The pointer: which load of a partition people read. Grain: dataset and partition.';

create table ops.ledger (
    ledger_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    event text not null,
    token bigint not null,
    run_id text not null,
    actor text not null,
    content_hash text,
    n_rows bigint
);
create index ledger_by_partition on ops.ledger (dataset, partition_date, ledger_id);
comment on table ops.ledger is 'Append-only record of what was published, refused and collected. Grain: event.';

create function ops.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_schema || '.' || tg_table_name;
end $$;
create trigger ledger_is_append_only before update or delete on ops.ledger for each row execute function ops.refuse_change();
create trigger ledger_is_never_truncated before truncate on ops.ledger for each statement execute function ops.refuse_change();

create view ops.raw_versions as
select
    dataset,
    partition_date,
    load_id,
    known_at,
    lead(known_at) over (partition by dataset, partition_date order by known_at, load_id) as superseded_at,
    n_rows,
    content_hash
from ops.loads
where state = 'published' and dataset like 'raw/%';
comment on view ops.raw_versions is 'When each version of a raw partition was what we knew: from known_at (included) to superseded_at (excluded). Grain: dataset, partition and load.';
