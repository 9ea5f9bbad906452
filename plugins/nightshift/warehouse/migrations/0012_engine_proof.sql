-- Whether the accelerated engine gives a version's predictions in every bit; only then it may score with it.
alter table ml.model_versions add column engine_proof jsonb;
comment on column ml.model_versions.engine_proof is 'Comparison of the accelerated engine with LightGBM on the hold-out, made in training: engine, version, n_rows, is_equal, objection, raw_sha256; null for versions of before, which LightGBM scores.';
