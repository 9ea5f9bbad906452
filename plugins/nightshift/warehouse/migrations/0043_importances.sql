-- What each version leans on, so that people see how it shifts from training to training.
alter table ml.model_versions add column importance jsonb;
comment on column ml.model_versions.importance is 'Share of the trees'' total gain by feature, 0 to 1; null for versions that were registered before this column.';

create view ml.importances as
select v.model, v.version, v.created_at as trained_at, v.fit_end, i.feature, i.share::double precision as share
from ml.model_versions v
cross join lateral jsonb_each_text(v.importance) i (feature, share);
comment on view ml.importances is 'What each version leans on. Grain: model, version and feature.';
comment on column ml.importances.share is 'Share of the total gain of the version''s trees, 0 to 1; the shares of a version add up to 1.';
