-- An empty list of incidents is good news only if somebody has just looked.
create view ops.last_evaluation as
select
    max(evaluated_at) as evaluated_at,
    coalesce(max(evaluated_at) > clock_timestamp() - interval '25 minutes', false) as is_fresh
from ops.incident_rules;
comment on view ops.last_evaluation is 'When what is broken was last looked for. Grain: one row.';
comment on column ops.last_evaluation.evaluated_at is 'Null if nobody ever has.';
comment on column ops.last_evaluation.is_fresh is 'Within 25 minutes, as ops.health has it; without it, no open incident says nothing.';

create view metrics.evaluation as
select
    coalesce(extract(epoch from max(evaluated_at)), 0)::double precision as last_timestamp_seconds,
    count(*) filter (where problem is not null) as failed_rules
from ops.incident_rules;
comment on view metrics.evaluation is 'Whether somebody looks for what is broken. Grain: one row.';
comment on column metrics.evaluation.last_timestamp_seconds is 'When the rules of incidents last ran; 0 if they never have.';
comment on column metrics.evaluation.failed_rules is 'Rules that gave no answer then.';
