-- What one scan learnt of each column of a load; partitions are added up from it without reading their rows again.
create table monitoring.profiles (
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    place smallint not null,
    column_name text not null,
    kind text not null check (kind in ('number', 'text')),
    n_rows bigint not null,
    n_missing bigint not null,
    minimum double precision,
    maximum double precision,
    mean double precision,
    std double precision,
    n_distinct bigint not null,
    sketch bytea not null,
    run_id text not null,
    profiled_at timestamptz not null default clock_timestamp(),
    primary key (dataset, partition_date, load_id, column_name)
);
comment on table monitoring.profiles is 'Summary of every column of a load, made in one scan. Grain: dataset, partition, load, column.';
comment on column monitoring.profiles.place is 'Order of the columns in their table.';
comment on column monitoring.profiles.minimum is 'Of the numbers; times are seconds since 1970, booleans 0 and 1.';
comment on column monitoring.profiles.n_distinct is 'Exact up to 256, else an estimate with a standard error of 6.3 percent.';
comment on column monitoring.profiles.sketch is 'Bins, exact sums and frequent texts, mergeable; read by nightshift.quality.profiles.';
