-- Any order of arrivals ends in the versions of the sorted order; refused rows can be corrected and replayed.
create or replace view ops.raw_versions as
select
    l.dataset,
    l.partition_date,
    l.load_id,
    l.known_at,
    lead(l.known_at) over (partition by l.dataset, l.partition_date order by l.known_at, d.source_sha256 collate "C", l.load_id) as superseded_at,
    l.n_rows,
    l.content_hash
from ops.loads l
left join raw.ingested_drops d using (dataset, partition_date, load_id)
where l.state = 'published' and l.dataset like 'raw/%';
comment on view ops.raw_versions is 'When each version of a raw partition was what we knew: from known_at (included) to superseded_at (excluded); of two with the same known_at the one with the greater digest counts. Grain: dataset, partition and load.';

create table quarantine.corrections (
    correction_id bigint generated always as identity primary key,
    row_id bigint not null references quarantine.refused_rows (row_id),
    at timestamptz not null default clock_timestamp(),
    known_at timestamptz not null,
    actor text not null,
    note text not null,
    corrected jsonb not null
);
create index corrections_by_row on quarantine.corrections (row_id, correction_id);
create trigger corrections_are_append_only before update or delete on quarantine.corrections for each row execute function ops.refuse_change();
create trigger corrections_are_never_truncated before truncate on quarantine.corrections for each statement execute function ops.refuse_change();
comment on table quarantine.corrections is 'Append-only: what a person says that a refused row should have said; the last one of a row counts. Grain: correction.';
comment on column quarantine.corrections.known_at is 'When the right values became known: the delivery time of the replayed drop.';
comment on column quarantine.corrections.corrected is 'The whole row after the correction, texts by column.';

alter table quarantine.refused_rows drop constraint refused_rows_state_check;
alter table quarantine.refused_rows add constraint refused_rows_state_check
check (state in ('open', 'corrected', 'replayed', 'superseded', 'dismissed'));
comment on column quarantine.refused_rows.state is 'open; corrected: a person gave the right values; replayed: ingested with them; superseded: the newest delivery has no such row; dismissed: nobody needs it.';
