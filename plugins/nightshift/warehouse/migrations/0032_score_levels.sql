-- What each scoring added to a version's answers, by the newest mature nights.
create table ops.score_levels (
    dataset text not null,
    partition_date date not null,
    load_id bigint not null,
    model_version integer not null,
    shift double precision not null,
    estimate double precision,
    n_nights integer not null,
    n_rows bigint not null,
    first_night date,
    last_night date,
    reason text,
    evidence text not null,
    model_digest text not null,
    features_hash text not null,
    spec_digest text not null,
    run_id text not null,
    seconds double precision not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (dataset, partition_date, load_id, model_version)
);
create index score_levels_by_version on ops.score_levels (dataset, partition_date, model_digest);
comment on table ops.score_levels is 'The level of a night: what was added to the answers of the version that scored it, by the newest mature nights. Grain: load, partition and version.';
comment on column ops.score_levels.dataset is 'predictions/<model>, or shadow/<model> for the scores of challengers.';
comment on column ops.score_levels.shift is 'Added to the log-odds of the probability, or to the value in the label''s unit; part of the base that contributions add up from.';
comment on column ops.score_levels.estimate is 'By how much the nights lay above the version''s answers, before it was shrunk and bounded; null without an estimate.';
comment on column ops.score_levels.n_nights is 'Mature nights that the estimate rests on.';
comment on column ops.score_levels.n_rows is 'Their labelled rows.';
comment on column ops.score_levels.reason is 'Why nothing was added, or not all of it; null otherwise.';
comment on column ops.score_levels.evidence is 'SHA-256 of the features and labels of these nights, hex; empty without an estimate.';
comment on column ops.score_levels.features_hash is 'Content hash of the feature load that was scored.';
comment on column ops.score_levels.seconds is 'What the estimate took; 0 where a published one was taken.';
