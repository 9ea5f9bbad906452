-- The evidence record of a decision: where it is, its digest and its signature.
alter table ml.promotions
add column evidence_key text,
add column evidence_sha256 text,
add column evidence_signature text,
add column evidence_page text;
comment on column ml.promotions.evidence_key is 'Object key of the evidence record, JSON; each holds the digest of the model''s record before it.';
comment on column ml.promotions.evidence_sha256 is 'Digest of its bytes, hex.';
comment on column ml.promotions.evidence_signature is 'HMAC-SHA-256 of its bytes by NIGHTSHIFT_EVIDENCE_KEY, hex; null without a key.';
comment on column ml.promotions.evidence_page is 'Object key of the page for people; its name has its digest.';
