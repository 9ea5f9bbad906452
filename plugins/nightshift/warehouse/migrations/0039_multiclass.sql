-- What the raw score of each class starts from, of versions that predict classes.
alter table ml.version_explanations add column base_by_class jsonb, alter column base_raw drop not null;
comment on column ml.version_explanations.base_raw is 'Expected raw score: log-odds of a binary model, else the label''s unit; null of classes, which have one each.';
comment on column ml.version_explanations.base_by_class is 'By class its expected raw score, which contributions to that class add up from; null without classes.';
