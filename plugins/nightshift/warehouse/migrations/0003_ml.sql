-- Training and promotion: what was trained on, what came out, how good it was, and who serves since when.
-- All but the MLflow mirror is append-only: the evidence of a decision cannot be rewritten.
create table ml.training_sets (
    training_set text primary key,
    model text not null,
    partition_date date not null,
    as_of timestamptz not null,
    first_day date not null,
    last_day date not null,
    n_rows bigint not null,
    sha256 text not null,
    spec_digest text not null,
    code_version text not null,
    manifest jsonb not null,
    run_id text not null,
    created_at timestamptz not null default clock_timestamp()
);
comment on table ml.training_sets is 'Manifests of the immutable training sets in the object store. Grain: training set, named by model, partition and content hash.';
comment on column ml.training_sets.training_set is 'Object key of the Parquet file.';
comment on column ml.training_sets.partition_date is 'The night that trains; the labels are what that night knew.';

create table ml.model_versions (
    model text not null,
    version integer not null,
    digest text not null,
    model_key text not null,
    model_sha256 text not null,
    metadata_key text not null,
    metadata_sha256 text not null,
    trees_sha256 text not null,
    training_set text not null references ml.training_sets (training_set),
    partition_date date not null,
    fit_end date not null,
    spec_digest text not null,
    code_version text not null,
    metrics jsonb not null,
    figures jsonb not null,
    run_id text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (model, version),
    unique (model, digest)
);
comment on table ml.model_versions is 'Every model ever trained, with the digests that a loader verifies. Grain: model and version.';
comment on column ml.model_versions.trees_sha256 is 'Digest of the trees alone, without the parameters block.';
comment on column ml.model_versions.fit_end is 'Last feature partition that any fit of this version has seen, validation and calibration included.';

create table ml.evaluations (
    model text not null,
    digest text not null,
    training_set text not null,
    sample text not null,
    source text not null,
    slice_column text not null default '',
    slice_level text not null default '',
    metric text not null,
    value double precision,
    n_rows bigint not null,
    run_id text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (model, digest, training_set, sample, source, slice_column, slice_level, metric)
);
comment on table ml.evaluations is 'Evidence: one measured number. Grain: model version, sample, source, slice and metric.';
comment on column ml.evaluations.sample is 'Which rows: holdout, backtest-<n> or promotion.';
comment on column ml.evaluations.source is 'Who scored them: challenger, champion or baseline.';

create table ml.promotions (
    promotion_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    model text not null,
    version integer not null,
    verdict text not null check (verdict in ('first', 'promoted', 'refused', 'rolled_back')),
    champion_version integer,
    partition_date date not null,
    effective_partition date not null,
    reasons text [] not null,
    numbers jsonb not null,
    run_id text not null,
    actor text not null,
    foreign key (model, version) references ml.model_versions (model, version)
);
create unique index promotions_decide_once on ml.promotions (model, version) where verdict <> 'rolled_back';
create index promotions_by_effect on ml.promotions (model, effective_partition, promotion_id);
comment on table ml.promotions is 'Append-only decisions about who is champion from which partition on, with all numbers. Grain: decision.';
comment on column ml.promotions.champion_version is 'The champion that the challenger was measured against; null for the first.';

create table ml.mlflow_mirror (
    model text not null,
    digest text not null,
    mlflow_run_id text,
    mlflow_version text,
    warning text,
    mirrored_at timestamptz,
    tried_at timestamptz not null default clock_timestamp(),
    primary key (model, digest)
);
comment on table ml.mlflow_mirror is 'Which versions MLflow shows, and why not. Only a view for people: the truth is ml.model_versions. Grain: model version.';

create function ml.keep(relation regclass) returns void language plpgsql as $$
begin
    execute format('create trigger is_append_only before update or delete on %s for each row execute function ops.refuse_change()', relation);
    execute format('create trigger is_never_truncated before truncate on %s for each statement execute function ops.refuse_change()', relation);
end $$;
select ml.keep('ml.training_sets'), ml.keep('ml.model_versions'), ml.keep('ml.evaluations'), ml.keep('ml.promotions');
drop function ml.keep (regclass);

create table monitoring.retrain_decisions (
    decision_id bigint generated always as identity primary key,
    model text not null,
    partition_date date not null,
    state text not null default 'open' check (state in ('open', 'consumed', 'refused')),
    reasons text [] not null,
    evidence jsonb not null,
    opened_at timestamptz not null default clock_timestamp(),
    opened_by text not null,
    closed_at timestamptz,
    closed_by text,
    closed_partition date,
    outcome jsonb,
    unique (model, partition_date)
);
create index retrain_decisions_open on monitoring.retrain_decisions (model, partition_date) where state = 'open';
comment on table monitoring.retrain_decisions is 'Evidence-based orders to retrain; each is consumed by exactly one training or refused. Grain: model and partition.';
