-- Which tries of which tasks reached our own code, and which runs were started again because nothing came of them.
create table ops.task_tries (
    dag_id text not null,
    dag_run_id text not null,
    task_id text not null,
    map_index integer not null,
    attempt integer not null,
    partition_date date not null,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    outcome text,
    primary key (dag_id, dag_run_id, task_id, map_index, attempt)
);
create index task_tries_by_partition on ops.task_tries (dag_id, partition_date);
create index task_tries_by_start on ops.task_tries (started_at);
comment on table ops.task_tries is 'Tries of Airflow''s tasks whose own code has begun; a try that Airflow counts and that is not here died before it. Grain: try.';
comment on column ops.task_tries.started_at is 'When its code began; of a task that waits for upstream, when it last looked.';
comment on column ops.task_tries.ended_at is 'When its code ended; null while it runs, or when its process died.';
comment on column ops.task_tries.outcome is 'success, waiting, skipped, or the code (of other exceptions the class) of its error; null as ended_at.';

create table ops.reruns (
    rerun_id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    dag_id text not null,
    dag_run_id text not null,
    partition_date date not null,
    reason text not null
);
create index reruns_by_partition on ops.reruns (dag_id, partition_date);
comment on table ops.reruns is 'Runs that catch_up has cleared so that they run again. Grain: clearing.';
