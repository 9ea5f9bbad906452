-- A share of the entities gets a challenger first: its rows, and the decisions that open and end it.
do $$
declare
    found record;
begin
    for found in
        select c.conrelid::regclass::text as table_name, c.conname from pg_constraint c
        where c.contype = 'c' and c.conname like '%score_source_check%' and c.connamespace = 'predictions'::regnamespace
    loop
        execute format('alter table %s drop constraint %I', found.table_name, found.conname);
        -- Not validated: the rows of before met a narrower check, and a scan of years of them would hold readers up.
        execute format(
            'alter table %s add check (score_source in '
            '(''champion'', ''named_version'', ''previous_champion'', ''carried_over'', ''fallback_rule'', ''canary'')) not valid', found.table_name);
    end loop;
end $$;

alter table ml.promotions drop constraint promotions_verdict_check;
alter table ml.promotions add constraint promotions_verdict_check
check (verdict in ('first', 'promoted', 'refreshed', 'shadowed', 'refused', 'rolled_back', 'canary', 'returned'));
drop index ml.promotions_decide_once;
create unique index promotions_decide_once on ml.promotions (model, version)
where verdict not in ('rolled_back', 'shadowed', 'canary', 'returned');
-- A version is a canary once: what was returned does not come back by itself.
create unique index promotions_canary_once on ml.promotions (model, version, verdict) where verdict in ('canary', 'returned');
comment on column ml.promotions.verdict is 'promoted: proved better than what served; refreshed: replaced by age, nothing proved; shadowed: sound, not proved, scores in the shadow; canary: a share of the entities gets it; returned: no longer; decisions before shadow scores say promoted for both of the first.';

create or replace view ml.succession as
select p.promotion_id, p.at, p.model, p.version, p.verdict, p.champion_version, p.partition_date, p.effective_partition, p.reasons, p.run_id, p.actor
from ml.promotions p
where p.verdict not in ('refused', 'shadowed', 'canary', 'returned') and not exists (
    select from ml.promotions r
    where r.model = p.model and r.verdict = 'rolled_back' and r.promotion_id > p.promotion_id and r.effective_partition <= p.effective_partition
);

create view ml.canaries as
select
    o.model,
    o.version,
    o.champion_version,
    (o.numbers ->> 'share')::double precision as share,
    o.effective_partition as first_partition,
    o.promotion_id,
    o.at as opened_at,
    o.reasons as opened_because,
    e.verdict as ended_by,
    e.effective_partition - 1 as last_partition,
    e.at as ended_at,
    e.reasons as ended_because
from ml.promotions o
left join lateral (
    select q.verdict, q.effective_partition, q.at, q.reasons
    from ml.promotions q
    where q.model = o.model and q.version = o.version and q.promotion_id > o.promotion_id
        and q.verdict in ('returned', 'promoted', 'refreshed', 'refused')
    order by q.effective_partition, q.promotion_id
    limit 1
) e on true
where o.verdict = 'canary';
comment on view ml.canaries is 'Which challenger got which share of the entities, from when, until when and why. Grain: version.';
comment on column ml.canaries.champion_version is 'Whom it stands beside: where another version serves, it gets nothing.';
comment on column ml.canaries.ended_by is 'returned, or the decision of the gate that ended it; null while it lasts.';
comment on column ml.canaries.last_partition is 'Included; null while it lasts.';

create view ops.canary_nights as
select
    substr(p.dataset, length('predictions/') + 1) as model,
    p.partition_date,
    p.load_id,
    (c.canary ->> 'version')::integer as version,
    (c.canary ->> 'champion')::integer as champion_version,
    (c.canary ->> 'share')::double precision as share,
    (c.canary ->> 'since')::date as first_partition,
    c.canary ->> 'features' as features_hash,
    c.canary ->> 'problem' as problem
from ops.published p
join ops.loads l using (dataset, partition_date, load_id)
cross join lateral (select l.detail -> 'canaries' -> p.partition_date::text as canary) c
where p.dataset like 'predictions/%' and c.canary is not null;
comment on view ops.canary_nights is 'Published predictions that were planned with a canary: both versions, the share, and why the champion scored it all the same. Grain: model and partition.';
comment on column ops.canary_nights.problem is 'Why the champion scored every row; null where the canary scored its share.';
