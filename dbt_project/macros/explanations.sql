{#- Why a prediction is what it is, and what moved it, from the contributions that are published with it. A contribution belongs to the
    raw score; an effect is its part of the difference between the prediction and the base, in points of probability or in the label's
    unit: contribution times (probability - base probability) / (raw score - base). So effects add up to that difference exactly. -#}

{#- Log-odds of a probability; a score that is rounded to 0 or 1 stays a number. -#}
{% macro log_odds(probability) -%}
    ln(
        least(greatest({{ probability }}, 1e-300), 0.9999999999999999)
        / (1 - least(greatest({{ probability }}, 1e-300), 0.9999999999999999))
    )
{%- endmacro %}

{#- The raw score that contributions add up to. -#}
{% macro raw_score(spec, rows) -%}
    {% if spec.is_binary %}{{ log_odds(rows ~ ".score") }}{% elif spec.get("classes") %}{{ rows }}.raw_score{% else %}{{ rows }}.score{% endif %}
{%- endmacro %}

{#- The base of a row is the version's base, moved by the level of the night (ops.score_levels): the same for all rows of the night, so
    no reason holds any of it. The level's alias follows from the base's: v of e, va of ea. Classes have no level, and a base each. -#}
{% macro base_raw(spec, base) -%}
    {% if spec.is_binary %}{{ base }}.base_raw{% elif spec.get("classes") %}({{ base }}.base_by_class ->> t.predicted_class)::double precision{% else %}({{ base }}.base_raw + coalesce({{ base | replace("e", "v") }}.shift, 0)){% endif %}
{%- endmacro %}

{% macro base_probability(spec, base) -%}
    case
        when coalesce({{ base | replace("e", "v") }}.shift, 0) = 0 then {{ base }}.base_probability
        else 1 / (1 + exp(-({{ log_odds(base ~ ".base_probability") }} + {{ base | replace("e", "v") }}.shift)))
    end
{%- endmacro %}

{#- The base of the rows `rows`, under the aliases `base` and its level's. -#}
{% macro base_joins(spec, rows, base) -%}
{%- set level = base | replace("e", "v") -%}
left join {{ spec.explanations }} as {{ base }} on {{ base }}.model = '{{ spec.name }}' and {{ rows }}.model_version = {{ base }}.version
left join {{ spec.levels }} as {{ level }}
    on {{ level }}.dataset = '{{ spec.predictions_dataset }}' and {{ rows }}.partition_date = {{ level }}.partition_date
    and {{ rows }}.load_id = {{ level }}.load_id and {{ rows }}.model_version = {{ level }}.model_version
{%- endmacro %}

{#- Points of probability, or units of the label, for one unit of contribution. -#}
{% macro effect_factor(spec, rows, base) -%}
    {%- if spec.is_binary -%}
    (
        100 * case
            -- At the base itself any factor is exact; this is the slope there.
            when abs({{ raw_score(spec, rows) }} - {{ base }}.base_raw) < 1e-9
                then ({{ base_probability(spec, base) }}) * (1 - ({{ base_probability(spec, base) }}))
            else ({{ rows }}.probability - ({{ base_probability(spec, base) }})) / ({{ raw_score(spec, rows) }} - {{ base }}.base_raw)
        end
    )
    {%- else -%}
    case when {{ base }}.{% if spec.get("classes") %}base_by_class{% else %}base_raw{% endif %} is not null then 1.0::double precision end
    {%- endif -%}
{%- endmacro %}

{% macro contribution(rows, index) -%}
    ({{ rows }}.reasons -> {{ index }} ->> 'contribution')::double precision
{%- endmacro %}

{#- reason_<n> in words, effect_<n> as numbers, and what is left: base + effects + other effects = prediction. -#}
{% macro reason_columns(spec) -%}
    {%- for index in range(spec.n_reasons) %}
    {%- if index %}
    {% endif -%}
    case
        when jsonb_array_length(t.reasons) > {{ index }} then predictions.reason_in_words(
            coalesce(w{{ index }}.label, replace(t.reasons -> {{ index }} ->> 'feature', '_', ' ')), t.reasons -> {{ index }} -> 'value',
            w{{ index }}.unit, u{{ index }}.usual_low, u{{ index }}.usual_high, u{{ index }}.usual_level,
            {{ contribution("t", index) }} * {{ effect_factor(spec, "t", "e") }}, '{{ spec.effect_unit }}'
        )
    end as reason_{{ index + 1 }},
    {{ contribution("t", index) }} * {{ effect_factor(spec, "t", "e") }} as effect_{{ index + 1 }},
    {%- endfor %}
    {% if spec.is_binary -%}
    100 * (t.probability - ({{ base_probability(spec, "e") }}))
    {%- else -%}
    {{ raw_score(spec, "t") }} - {{ base_raw(spec, "e") }}
    {%- endif %}
    {%- for index in range(spec.n_reasons) %}
    - coalesce({{ contribution("t", index) }} * {{ effect_factor(spec, "t", "e") }}, 0)
    {%- endfor %} as other_effects,
    {% if spec.is_binary %}{{ base_probability(spec, "e") }} as base_probability{% else %}{{ base_raw(spec, "e") }} as base_value{% endif %}
{%- endmacro %}

{#- By primary key: PostgreSQL leaves these joins out of a query that reads no reason. -#}
{% macro reason_joins(spec) -%}
    {%- for index in range(spec.n_reasons) %}
left join {{ spec.references }} as u{{ index }}
    on u{{ index }}.model = '{{ spec.name }}' and t.model_version = u{{ index }}.version
    and u{{ index }}.feature = t.reasons -> {{ index }} ->> 'feature'
left join {{ spec.words }} as w{{ index }}
    on w{{ index }}.feature_view = '{{ spec.feature_view }}' and w{{ index }}.feature = t.reasons -> {{ index }} ->> 'feature'
    {%- endfor %}
{%- endmacro %}

{#- The declared cause of a feature; null without one. -#}
{% macro cause_of(spec, feature) -%}
    {%- if spec.causes -%}
    case {{ feature }}
        {%- for name, words, features in spec.causes %}
        {%- for feature_name in features %}
        when '{{ feature_name }}' then '{{ name | replace("'", "''") }}'
        {%- endfor %}
        {%- endfor %}
    end
    {%- else -%}
    null::text
    {%- endif -%}
{%- endmacro %}

{#- What a cause says, as the beginning of a sentence; a cause that is declared no more says its name. -#}
{% macro words_of_cause(spec, cause) -%}
    case {{ cause }}
        {%- for name, words, features in spec.causes %}
        when '{{ name | replace("'", "''") }}' then '{{ words | replace("'", "''") }}'
        {%- endfor %}
        when 'other' then 'everything else'
        else {{ cause }}
    end
{%- endmacro %}

{#- One row per reason of the predictions that count now. -#}
{% macro prediction_reasons(spec) -%}
select
    t."{{ spec.key }}",
    {{ predicted_day(spec, "t") }} as predicted_day,
    r.rank::smallint as rank,
    predictions.reason_in_words(
        coalesce(w.label, replace(r.reason ->> 'feature', '_', ' ')), r.reason -> 'value', w.unit,
        u.usual_low, u.usual_high, u.usual_level,
        (r.reason ->> 'contribution')::double precision * {{ effect_factor(spec, "t", "e") }}, '{{ spec.effect_unit }}'
    ) as reason,
    (r.reason ->> 'contribution')::double precision * {{ effect_factor(spec, "t", "e") }} as effect,
    r.reason ->> 'feature' as feature,
    coalesce(w.label, replace(r.reason ->> 'feature', '_', ' ')) as label,
    {{ cause_of(spec, "r.reason ->> 'feature'") }} as cause,
    r.reason ->> 'value' as value,
    w.unit,
    u.usual_low,
    u.usual_high,
    u.usual_level,
    w.description,
    (r.reason ->> 'contribution')::double precision as contribution,
    {% if spec.is_binary %}t.probability{% elif spec.get("classes") %}t.predicted_class,
    t.probability{% elif spec.get("is_ranking") %}t.score{% else %}t.score as prediction{% endif %},
    {% if spec.is_binary %}{{ base_probability(spec, "e") }} as base_probability{% else %}{{ base_raw(spec, "e") }} as base_value{% endif %},
    t.model_version,
    l.published_at,
    t.partition_date,
    t.load_id
{{ prediction_rows(spec, false) }}
cross join lateral jsonb_array_elements(t.reasons) with ordinality as r (reason, rank)
left join {{ spec.references }} as u
    on u.model = '{{ spec.name }}' and t.model_version = u.version and r.reason ->> 'feature' = u.feature
left join {{ spec.words }} as w on w.feature_view = '{{ spec.feature_view }}' and r.reason ->> 'feature' = w.feature
{%- endmacro %}

{#- One row per cause of the predictions that count now: the exact sum of its features, of all of them and not of the published reasons.
    The strongest published reason of a cause says what it is about. -#}
{% macro prediction_causes(spec) -%}
select
    t."{{ spec.key }}",
    {{ predicted_day(spec, "t") }} as predicted_day,
    c.rank::smallint as rank,
    replace(
        predictions.reason_in_words(
            {{ words_of_cause(spec, "c.cause") }}, '""', '', null, null, null, c.contribution * {{ effect_factor(spec, "t", "e") }}, '{{ spec.effect_unit }}'
        ), ' : ', ': '
    ) || coalesce(
        ', above all ' || predictions.reason_in_words(
            coalesce(w.label, replace(s.reason ->> 'feature', '_', ' ')), s.reason -> 'value', w.unit, u.usual_low, u.usual_high, u.usual_level,
            null, ''
        ), ''
    ) as reason,
    c.contribution * {{ effect_factor(spec, "t", "e") }} as effect,
    abs(c.contribution) / nullif(c.total, 0) as share,
    c.cause,
    {{ words_of_cause(spec, "c.cause") }} as words,
    s.reason ->> 'feature' as strongest_feature,
    c.contribution,
    {% if spec.is_binary %}t.probability{% elif spec.get("classes") %}t.predicted_class,
    t.probability{% elif spec.get("is_ranking") %}t.score{% else %}t.score as prediction{% endif %},
    {% if spec.is_binary %}{{ base_probability(spec, "e") }} as base_probability{% else %}{{ base_raw(spec, "e") }} as base_value{% endif %},
    t.model_version,
    l.published_at,
    t.partition_date,
    t.load_id
{{ prediction_rows(spec, false) }}
cross join lateral (
    select
        sums.cause,
        sums.contribution,
        row_number() over (order by abs(sums.contribution) desc, sums.cause) as rank,
        sum(abs(sums.contribution)) over () as total
    from (select key as cause, value::double precision as contribution from jsonb_each_text(t.causes)) as sums
) as c
left join lateral (
    select r.reason
    from jsonb_array_elements(t.reasons) with ordinality as r (reason, position)
    where coalesce({{ cause_of(spec, "r.reason ->> 'feature'") }}, 'other') = c.cause
    order by r.position
    limit 1
) as s on true
left join {{ spec.references }} as u
    on u.model = '{{ spec.name }}' and t.model_version = u.version and s.reason ->> 'feature' = u.feature
left join {{ spec.words }} as w on w.feature_view = '{{ spec.feature_view }}' and s.reason ->> 'feature' = w.feature
{%- endmacro %}

{#- What a prediction was before, and what it is now: after a rerun, and since the night before. Contributions are compared on the
    scale of the calibrated prediction, so that another calibration is no change of a feature. -#}
{% macro prediction_changes(spec) -%}
with
loads as (
    select
        *,
        row_number() over (partition by partition_date order by published_at, load_id) as position
    from predictions.published_loads('{{ spec.predictions_dataset }}', '{{ spec.features_dataset }}')
),

pairs as (
    select
        'rerun' as comparison,
        a.partition_date,
        a.load_id,
        a.published_at,
        b.partition_date as partition_date_before,
        b.load_id as load_id_before,
        b.published_at as published_before,
        b.position + 1 = a.position as is_consecutive
    from loads as a
    inner join loads as b on a.partition_date = b.partition_date and a.position > b.position
    union all
    select
        'night before',
        a.partition_date,
        a.load_id,
        a.published_at,
        b.partition_date,
        b.load_id,
        b.published_at,
        true
    from loads as a
    inner join loads as b on a.partition_date = b.partition_date + 1
    where a.is_current and b.is_current
),

-- An entity that names its day is the same one the day before under that day's name.
matched as (
    select
        p.*,
        a."{{ spec.key }}",
        {{ predicted_day(spec, "a") }} as predicted_day,
        a.decile,
        a.model_version,
        a.score_source,
        a.reasons,
        b.decile as decile_before,
        b.model_version as model_version_before,
        b.score_source as score_source_before,
        b.reasons as reasons_before,
        {%- if spec.is_binary %}
        a.probability as prediction,
        b.probability as prediction_before,
        {{ log_odds("a.probability") }} as answer,
        {{ log_odds("b.probability") }} as answer_before,
        {{ log_odds("(" ~ base_probability(spec, "ea") ~ ")") }} as base,
        {{ log_odds("(" ~ base_probability(spec, "eb") ~ ")") }} as base_before,
        {%- else %}
        a.score as prediction,
        b.score as prediction_before,
        a.score as answer,
        b.score as answer_before,
        {{ base_raw(spec, "ea") }} as base,
        {{ base_raw(spec, "eb") }} as base_before,
        {%- endif %}
        {{ raw_score(spec, "a") }} - {{ base_raw(spec, "ea") }} as raw_added,
        {{ raw_score(spec, "b") }} - {{ base_raw(spec, "eb") }} as raw_added_before
    from pairs as p
    inner join {{ spec.predictions }} as a on p.load_id = a.load_id and p.partition_date = a.partition_date
    -- One look-up by the primary key: PostgreSQL expects few rows of a load, and would compare each with each.
    cross join lateral (
        select *
        from {{ spec.predictions }} as earlier
        where
            earlier.load_id = p.load_id_before and earlier.partition_date = p.partition_date_before
            and earlier."{{ spec.key }}" = case
                when p.comparison = 'rerun' then a."{{ spec.key }}"
                else replace(a."{{ spec.key }}", {{ predicted_day(spec, "a") }}::text, ({{ predicted_day(spec, "a") }} - 1)::text)
            end
        limit 1
    ) as b
    {{ base_joins(spec, "a", "ea") }}
    {{ base_joins(spec, "b", "eb") }}
),

scaled as (
    select
        *,
        -- Points of probability, or units of the label, for one unit of the answer: the secant between the two.
        {% if spec.is_binary -%}
        100 * case
            when abs(answer - answer_before) < 1e-9 then prediction * (1 - prediction)
            else (prediction - prediction_before) / (answer - answer_before)
        end
        {%- else -%}
        1.0::double precision
        {%- endif %} as factor,
        case when abs(raw_added) < 1e-9 then 1 else (answer - base) / raw_added end as scale,
        case when abs(raw_added_before) < 1e-9 then 1 else (answer_before - base_before) / raw_added_before end as scale_before,
        -- Published contributions have six decimals; a list that leaves no more than their rounding is complete.
        abs(raw_added - predictions.sum_of_contributions(reasons)) <= 1e-6 * (1 + jsonb_array_length(reasons)) as is_complete,
        abs(raw_added_before - predictions.sum_of_contributions(reasons_before)) <= 1e-6 * (1 + jsonb_array_length(reasons_before))
            as is_complete_before
    from matched
),

compared as (
    select
        *,
        {% if spec.is_binary %}100 * {% endif %}(prediction - prediction_before) as change,
        coalesce((base - base_before) * factor, 0) as base_effect,
        predictions.contribution_changes(
            reasons_before, reasons, coalesce(is_complete_before, false), coalesce(is_complete, false), scale_before, scale, factor
        ) as contribution_changes
    from scaled
)

select
    "{{ spec.key }}",
    predicted_day,
    comparison,
    {% if spec.is_binary -%}
    prediction_before as probability_before,
    prediction as probability,
    {%- else -%}
    prediction_before as value_before,
    prediction as value,
    {%- endif %}
    change,
    decile_before,
    decile,
    (
        select string_agg(
            predictions.reason_in_words(
                coalesce(w.label, replace(c.change ->> 'feature', '_', ' ')), c.change -> 'value_after', w.unit, null, null, null,
                (c.change ->> 'effect')::double precision, '{{ spec.effect_unit }}', c.change -> 'value_before'
            ), '; ' order by c.position
        )
        from jsonb_array_elements(contribution_changes) with ordinality as c (change, position)
        left join {{ spec.words }} as w on w.feature_view = '{{ spec.feature_view }}' and c.change ->> 'feature' = w.feature
        where c.position <= {{ [spec.n_reasons, 1] | max }} and abs((c.change ->> 'effect')::double precision) > 0
    ) as what_moved_it,
    contribution_changes,
    base_effect,
    change - base_effect - predictions.sum_of_effects(contribution_changes) as other_effects,
    coalesce(is_complete and is_complete_before, false) as is_complete,
    model_version_before,
    model_version,
    score_source_before,
    score_source,
    published_before,
    published_at,
    is_consecutive,
    partition_date_before,
    partition_date,
    load_id_before,
    load_id
from compared
{%- endmacro %}
