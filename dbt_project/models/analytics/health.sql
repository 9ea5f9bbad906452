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

newest as (
    select
        dataset,
        max(partition_date) as partition_date
    from {{ source("ops", "published") }}
    where dataset like 'predictions/%'
    group by dataset
),

tables as (
    select
        due.*,
        newest.partition_date,
        pointer.load_id,
        pointer.published_at,
        loads.n_rows as n_predictions,
        (
            select min(first_loads.published_at)
            from {{ source("ops", "loads") }} as first_loads
            where
                first_loads.dataset = due.predictions_dataset and first_loads.partition_date = newest.partition_date
                and first_loads.state = 'published'
        ) as first_published_at,
        ((newest.partition_date + 1) + due.deadline) at time zone due.timezone as deadline_at,
        predictions.load_summary(due.model, newest.partition_date, pointer.load_id) as load_summary,
        (
            select feature_loads.n_rows
            from {{ source("ops", "published") }} as feature_pointer
            inner join {{ source("ops", "loads") }} as feature_loads
                on
                feature_pointer.dataset = feature_loads.dataset
                and feature_pointer.partition_date = feature_loads.partition_date
                and feature_pointer.load_id = feature_loads.load_id
            where feature_pointer.dataset = due.features_dataset and feature_pointer.partition_date = newest.partition_date
        ) as n_entities,
        (
            select succession.version
            from {{ source("ml", "succession") }} as succession
            where succession.model = due.model and succession.effective_partition <= newest.partition_date
            order by succession.effective_partition desc, succession.promotion_id desc
            limit 1
        ) as champion_version,
        not exists (
            select 1 as is_published
            from {{ source("ops", "published") }} as due_pointer
            where due_pointer.dataset = due.predictions_dataset and due_pointer.partition_date = due.due_partition
        ) as is_late
    from due
    left join newest on due.predictions_dataset = newest.dataset
    left join {{ source("ops", "published") }} as pointer
        on due.predictions_dataset = pointer.dataset and newest.partition_date = pointer.partition_date
    left join {{ source("ops", "loads") }} as loads
        on pointer.dataset = loads.dataset and pointer.partition_date = loads.partition_date and pointer.load_id = loads.load_id
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
