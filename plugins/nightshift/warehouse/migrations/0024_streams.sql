-- Shadow scores, the paired losses of streams, and verdicts that say what was proved.
create schema shadow;
comment on schema shadow is 'Scores of challengers that do not serve: one table per model, every load. Read by the promotion gate only.';

-- Decisions of before keep their verdict. A shadowed version is decided about once more.
alter table ml.promotions drop constraint promotions_verdict_check;
alter table ml.promotions add constraint promotions_verdict_check
check (verdict in ('first', 'promoted', 'refreshed', 'shadowed', 'refused', 'rolled_back'));
drop index ml.promotions_decide_once;
create unique index promotions_decide_once on ml.promotions (model, version) where verdict not in ('rolled_back', 'shadowed');
create unique index promotions_shadow_once on ml.promotions (model, version) where verdict = 'shadowed';
comment on column ml.promotions.verdict is 'promoted: proved better than what served; refreshed: replaced by age, nothing proved; shadowed: sound, not proved, scores in the shadow; decisions before shadow scores say promoted for both of the first.';

create or replace view ml.succession as
select p.promotion_id, p.at, p.model, p.version, p.verdict, p.champion_version, p.partition_date, p.effective_partition, p.reasons, p.run_id, p.actor
from ml.promotions p
where p.verdict not in ('refused', 'shadowed') and not exists (
    select from ml.promotions r
    where r.model = p.model and r.verdict = 'rolled_back' and r.promotion_id > p.promotion_id and r.effective_partition <= p.effective_partition
);

create table monitoring.stream_nights (
    model text not null,
    stream text not null,
    partition_date date not null,
    champion_version integer not null,
    challenger_version integer not null,
    loss text not null,
    n_rows bigint not null check (n_rows > 0),
    champion_loss double precision not null,
    challenger_loss double precision not null,
    predictions_load bigint not null,
    shadow_load bigint not null,
    known_on date not null,
    run_id text not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (model, stream, partition_date)
);
comment on table monitoring.stream_nights is 'The paired loss of champion and challenger on a matured night. Grain: model, stream and night.';
comment on column monitoring.stream_nights.loss is 'log_loss, squared_error or absolute_error; the mean over the rows that both scored and that have a label.';
comment on column monitoring.stream_nights.known_on is 'The night whose knowledge the labels are.';

create table monitoring.stream_evidence (
    model text not null,
    stream text not null,
    partition_date date not null,
    since date not null,
    n_nights integer not null,
    mean_gain double precision not null,
    gain_low double precision,
    e_value double precision not null,
    primary key (model, stream, partition_date)
);
comment on table monitoring.stream_evidence is 'The evidence of a stream after each night, since the last decision that restarts its test. Grain: model, stream and night.';
comment on column monitoring.stream_evidence.gain_low is 'Lower bound of the mean gain, on all nights together.';

create view monitoring.streams as
select
    n.model,
    n.stream,
    n.partition_date,
    n.champion_version,
    n.challenger_version,
    n.loss,
    n.n_rows,
    n.champion_loss,
    n.challenger_loss,
    n.champion_loss - n.challenger_loss as gain,
    e.since,
    e.n_nights,
    e.mean_gain,
    e.gain_low,
    e.e_value
from monitoring.stream_nights n
left join monitoring.stream_evidence e using (model, stream, partition_date);
comment on view monitoring.streams is 'Every matured night of a stream with the running e-value: the evidence that the challengers are better than what served. Grain: model, stream and night.';
