-- Who may serve: every promotion, and every rollback, that no later rollback has revoked.
create view ml.succession as
select p.promotion_id, p.at, p.model, p.version, p.verdict, p.champion_version, p.partition_date, p.effective_partition, p.reasons, p.run_id, p.actor
from ml.promotions p
where p.verdict <> 'refused' and not exists (
    select from ml.promotions r
    where r.model = p.model and r.verdict = 'rolled_back' and r.promotion_id > p.promotion_id and r.effective_partition <= p.effective_partition
);
comment on view ml.succession is 'Promotions and rollbacks that stand; the champion of a partition is the last one by effective_partition and promotion_id. Grain: decision.';
