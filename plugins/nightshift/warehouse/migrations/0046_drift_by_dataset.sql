-- Whoever asks for the year of one model names its dataset too: without it the pointers of all datasets and nights are read.
create or replace view monitoring.drift_published as
select t.*, p.dataset from monitoring.drift t
join ops.published p on p.dataset = 'monitoring_drift/' || t.model and p.partition_date = t.partition_date and p.load_id = t.load_id;
comment on column monitoring.drift_published.dataset is 'Whose pointer names the load, monitoring_drift/<model>; a condition on it makes the pointers of one model be read by their index.';
