-- When the rows of a load that nobody can read were deleted.
alter table ops.loads add column collected_at timestamptz;
