-- What ingest did not let through, and which drops it has taken.
create table raw.ingested_drops (
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    known_at timestamptz not null,
    source_uri text not null,
    source_sha256 text not null,
    contract_digest text not null,
    n_delivered bigint not null,
    n_duplicated bigint not null,
    n_refused bigint not null,
    notes text[] not null default '{}',
    primary key (dataset, partition_date, load_id)
);
comment on table raw.ingested_drops is 'The drop behind each raw load; it counts once that load is published or a duplicate. Grain: dataset, partition and load.';

create table quarantine.refused_rows (
    row_id bigint generated always as identity primary key,
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    known_at timestamptz not null,
    source_uri text not null,
    source_sha256 text not null,
    source_row bigint not null,
    reason text not null,
    column_name text,
    delivered jsonb not null,
    row_digest text not null,
    state text not null default 'open' check (state in ('open', 'corrected', 'replayed', 'dismissed')),
    quarantined_at timestamptz not null default clock_timestamp(),
    decided_at timestamptz,
    decided_by text,
    note text,
    unique (dataset, partition_date, row_digest)
);
comment on table quarantine.refused_rows is 'Refused rows as they were delivered, with the reason and what became of them. Grain: dataset, partition and distinct refused row.';

create table quarantine.refused_drops (
    dataset text not null,
    partition_date date not null,
    known_at timestamptz not null,
    source_uri text not null,
    source_sha256 text not null,
    code text not null,
    reason text not null,
    run_id text not null,
    quarantined_at timestamptz not null default clock_timestamp(),
    primary key (dataset, partition_date, known_at, source_uri, source_sha256, code)
);
comment on table quarantine.refused_drops is 'Files that were refused as a whole. Grain: drop and error code.';
