-- What a model's spec said when it could last be used: its rescue runs on it while its file is wrong.
create table ops.last_good_specs (
    model text primary key,
    digest text not null,
    spec text not null,
    kept_at timestamptz not null default clock_timestamp()
);
comment on table ops.last_good_specs is 'The last spec of each model that migrate or a scoring could use. Grain: model.';
comment on column ops.last_good_specs.spec is 'JSON as text: jsonb would order the parameters anew, and the digest with them.';
comment on column ops.last_good_specs.digest is 'SHA-256 of the spec as its model versions and loads name it.';
comment on column ops.last_good_specs.kept_at is 'When this content was first used, UTC.';
