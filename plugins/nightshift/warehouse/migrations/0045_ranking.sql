-- What comments say of versions that order the rows of a group. No column changes.
comment on column monitoring.stream_nights.loss is 'log_loss, squared_error or absolute_error, the mean over the rows that both scored and that have a label; of a ranking ndcg_loss, 1 minus the mean NDCG of their groups.';
comment on column ml.version_explanations.base_raw is 'Expected raw score: log-odds of a binary model, a number without a unit of a ranking, else the label''s unit; null of classes, which have one each.';
