-- A load whose published rows are no longer what was published is set aside, and the ledger says why its successor was published.
alter table ops.loads drop constraint loads_state_check;
alter table ops.loads add constraint loads_state_check
check (state in ('staged', 'audited', 'published', 'duplicate', 'refused', 'collected', 'damaged'));
comment on column ops.loads.state is 'staged; audited; published; duplicate: its content stood there before; refused by a gate; collected: its rows are deleted; damaged: its published rows vanished or changed, another load stands for it.';

alter table ops.ledger add column reason text;
comment on column ops.ledger.event is 'published, duplicate, refused; damaged: published rows were found that differ from what was published; voided: a person says that the load no longer proves what its inputs give.';
comment on column ops.ledger.reason is 'Of a repair: what it repairs; of damaged: what was found; of voided: why. Null otherwise.';
