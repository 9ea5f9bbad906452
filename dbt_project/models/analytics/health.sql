with
models as (
    select
        *,
        (now() at time zone timezone)::date as today,
        (now() at time zone timezone)::time as local_time
    from {{ source("ops", "analytics_models") }}
),

-- The last night whose deadline is over: it stands on the morning after the night's day.
due as (
    select
        *,
        today - case when local_time >= deadline then 1 else 2 end as due_partition
    from models
),

-- A condition on a model reaches its rows alone, and each figure is worked out once: in a select list, PostgreSQL would count the
-- rows of a load again wherever a later step names their count.
tables as (
    select
        due.*,
        newest.partition_date,
        newest.load_id,
        newest.published_at,
        loads.n_rows as n_predictions,
        first_load.published_at as first_published_at,
        ((newest.partition_date + 1) + due.deadline) at time zone due.timezone as deadline_at,
        summary_of_load.load_summary,
        feature_loads.n_rows as n_entities,
        champion.version as champion_version,
        due_pointer.load_id is null as is_late
    from due
    left join lateral (
        select
            pointer.partition_date,
            pointer.load_id,
            pointer.published_at
        from {{ source("ops", "published") }} as pointer
        where pointer.dataset = due.predictions_dataset
        order by pointer.partition_date desc
        limit 1
    ) as newest on true
    left join {{ source("ops", "loads") }} as loads
        on
        due.predictions_dataset = loads.dataset
        and newest.partition_date = loads.partition_date
        and newest.load_id = loads.load_id
    left join lateral (
        select min(earlier.published_at) as published_at
        from {{ source("ops", "loads") }} as earlier
        where
            earlier.dataset = due.predictions_dataset
            and earlier.partition_date = newest.partition_date
            and earlier.state = 'published'
    ) as first_load on true
    left join lateral predictions.load_summary(due.model, newest.partition_date, newest.load_id) as summary_of_load (load_summary) on true
    left join {{ source("ops", "published") }} as feature_pointer
        on due.features_dataset = feature_pointer.dataset and newest.partition_date = feature_pointer.partition_date
    left join {{ source("ops", "loads") }} as feature_loads
        on
        feature_pointer.dataset = feature_loads.dataset
        and feature_pointer.partition_date = feature_loads.partition_date
        and feature_pointer.load_id = feature_loads.load_id
    left join lateral (
        select succession.version
        from {{ source("ml", "succession") }} as succession
        where succession.model = due.model and succession.effective_partition <= newest.partition_date
        order by succession.effective_partition desc, succession.promotion_id desc
        limit 1
    ) as champion on true
    left join {{ source("ops", "published") }} as due_pointer
        on due.predictions_dataset = due_pointer.dataset and due.due_partition = due_pointer.partition_date
),

counted as (
    select
        *,
        coalesce((load_summary -> 'rows' ->> 'champion')::bigint, 0) as n_by_champion,
        coalesce((load_summary -> 'rows' ->> 'previous_champion')::bigint, 0)
        + coalesce((load_summary -> 'rows' ->> 'carried_over')::bigint, 0)
        + coalesce((load_summary -> 'rows' ->> 'fallback_rule')::bigint, 0) as n_degraded
    from tables
)

select
    model || '_current' as table_name,
    model,
    case
        when partition_date is null then 'unknown'
        when is_late then 'late'
        when n_degraded > 0 or n_predictions < n_entities then 'degraded'
        else 'ok'
    end as status,
    partition_date + 1 as predicted_day,
    (load_summary ->> 'known_as_of')::timestamp with time zone as fresh_as_of,
    published_at,
    deadline_at,
    first_published_at <= deadline_at as is_deadline_kept,
    is_late,
    due_partition + 1 as due_day,
    n_predictions,
    n_entities,
    n_predictions::double precision / nullif(n_entities, 0) as share_of_entities,
    champion_version,
    n_by_champion::double precision / nullif(n_predictions, 0) as share_by_champion,
    n_degraded > 0 as is_degraded,
    load_summary -> 'rows' as rows_by_source,
    description,
    owner,
    runbook,
    partition_date,
    load_id
from counted
