-- The model that a version's evidence is about: the same recipe, fitted on the days before the
-- hold-out only. Null for versions that were evaluated themselves, which all older ones were.
alter table ml.model_versions add column evaluated jsonb;
