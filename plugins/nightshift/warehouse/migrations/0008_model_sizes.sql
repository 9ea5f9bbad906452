-- The sizes of a model's files, so that a loader knows how much to ask for before it asks; versions without them are not loaded.
alter table ml.model_versions add column model_bytes bigint check (model_bytes > 0);
alter table ml.model_versions add column metadata_bytes bigint check (metadata_bytes > 0);
comment on column ml.model_versions.model_bytes is 'Size of model.lgb; null for versions of before this column, which hold no golden predictions and are loaded no more.';
comment on column ml.model_versions.metadata_bytes is 'Size of model.json.';
