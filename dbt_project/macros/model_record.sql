{#- How good a model's predictions turned out, and which version was champion when. -#}

{#- The newest measurement of each night: labels that came later replace it. -#}
{% macro model_performance(spec) -%}
with measured as (
    select distinct on (partition_date, slice_name, slice_value, metric)
        partition_date,
        measured_on,
        slice_name,
        slice_value,
        metric,
        value,
        baseline_value,
        n_labels,
        model_version,
        maturity,
        low,
        high
    from {{ spec.performance }}
    where model = '{{ spec.name }}'
    order by partition_date, slice_name, slice_value, metric, measured_on desc
)

select
    m.partition_date + 1 as predicted_day,
    m.metric,
    m.slice_name,
    m.slice_value,
    m.value,
    m.baseline_value,
    case when v.metric = m.metric and m.slice_name = 'all' then v.metric_expected end as expected_value,
    m.n_labels,
    m.maturity,
    v.performance_status,
    v.drift_status,
    v.has_triggered as has_requested_retraining,
    m.model_version,
    m.measured_on,
    m.partition_date,
    m.low as value_low,
    m.high as value_high
from measured as m
left join {{ spec.verdicts }} as v
    on v.model = '{{ spec.name }}' and m.measured_on = v.partition_date and m.partition_date = v.evaluated_partition
{%- endmacro %}

{#- One row for each time that a version was champion, and one for a version that never was. -#}
{% macro model_versions(spec) -%}
with stints as (
    select
        version,
        verdict,
        effective_partition,
        lead(effective_partition) over (order by effective_partition, promotion_id) - 1 as last_partition
    from {{ spec.succession }}
    where model = '{{ spec.name }}'
),

decisions as (
    select distinct on (version)
        version,
        verdict,
        at as decided_at,
        array_to_string(reasons, ' ') as why,
        champion_version as compared_with_version,
        actor as decided_by
    from {{ spec.promotions }}
    where model = '{{ spec.name }}' and verdict <> 'rolled_back'
    order by version, promotion_id
)

select
    v.version as model_version,
    s.effective_partition as champion_from,
    s.last_partition as champion_until,
    coalesce(s.effective_partition is not null and s.last_partition is null, false) as is_newest_champion,
    coalesce(s.verdict, d.verdict) as verdict,
    d.why,
    '{{ spec.metric }}' as metric,
    (v.metrics -> 'challenger' ->> '{{ spec.metric }}')::double precision as holdout_value,
    (v.metrics -> 'baseline' ->> '{{ spec.metric }}')::double precision as baseline_value,
    v.metrics as holdout_metrics,
    v.created_at as trained_at,
    v.partition_date as trained_on_night,
    ts.first_day as training_first_day,
    ts.last_day as training_last_day,
    ts.n_rows as n_training_rows,
    d.compared_with_version,
    d.decided_at,
    d.decided_by
from {{ spec.versions }} as v
inner join {{ spec.training_sets }} as ts on v.training_set = ts.training_set
left join decisions as d on v.version = d.version
left join stints as s on v.version = s.version and (s.last_partition is null or s.last_partition >= s.effective_partition)
where v.model = '{{ spec.name }}'
{%- endmacro %}
