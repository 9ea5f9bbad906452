-- Every delivered row is accounted for; loads of before, and of code of before, have no n_accepted.
alter table raw.ingested_drops add column n_accepted bigint;
alter table raw.ingested_drops add constraint every_row_is_accounted_for
check (n_accepted is null or n_delivered = n_accepted + n_duplicated + n_refused);
comment on column raw.ingested_drops.n_delivered is 'Rows of the file behind its header, as counted.';
comment on column raw.ingested_drops.n_accepted is 'Rows that the load has; null for loads before this column.';
comment on column raw.ingested_drops.n_duplicated is 'Rows that repeat an earlier one of the file.';
comment on column raw.ingested_drops.n_refused is 'Refused rows; equal ones count as often as they came, and stand in quarantine.refused_rows once. Loads without n_accepted counted them once.';
