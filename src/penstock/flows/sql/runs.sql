-- Runs for display and for operators: lists, trees, forced ends and moves. Loaded by penstock.flows.sql.runs.
-- The rules at the head of penstock/jobs/sql/queries.sql hold here too.


-- name: open_runs(tenant_id, profiles, held, below, limit)
-- Returns runs that have not ended, newest first: of these queues (null: of any), or only those that are held. Index: primary key of
-- flow_gate, or flow_gate_held.
SELECT g.run_id FROM flow_gate g
JOIN lane n ON n.tenant_id = :tenant_id AND n.id = g.lane_id
WHERE g.tenant_id = :tenant_id AND g.run_id < :below::uuid AND NOT g.is_map AND (NOT :held::bool OR g.hold IS NOT NULL)
  AND (:profiles::text[] IS NULL OR n.model_profile = ANY (:profiles::text[]))
ORDER BY g.run_id DESC LIMIT :limit::int;


-- name: unfinished_by_queue(tenant_id)
-- Returns how many runs of each flow have not ended, from the counters.
SELECT s.model_profile, sum(c.pending + c.running + c.waiting)::bigint AS runs
FROM (
    SELECT series_id, pending, running, waiting FROM stat WHERE tenant_id = :tenant_id
    UNION ALL
    SELECT series_id, pending, running, waiting FROM stat_delta WHERE tenant_id = :tenant_id
) c
JOIN series s ON s.tenant_id = :tenant_id AND s.id = c.series_id
WHERE s.task_type = 'flow' GROUP BY s.model_profile HAVING sum(c.pending + c.running + c.waiting) > 0;


-- name: unfinished_of_all()
-- tenant: every (a metric)
-- Returns how many runs of each flow have not ended, from the counters of all tenants.
SELECT s.model_profile, sum(c.pending + c.running + c.waiting)::bigint AS runs
FROM (
    SELECT series_id, pending, running, waiting FROM stat
    UNION ALL
    SELECT series_id, pending, running, waiting FROM stat_delta
) c
JOIN series s ON s.id = c.series_id
WHERE s.task_type = 'flow' GROUP BY s.model_profile HAVING sum(c.pending + c.running + c.waiting) > 0;


-- name: held_of_all()
-- tenant: every (a metric)
-- Returns how many runs of each flow are held, and why. Index: flow_gate_held.
SELECT n.model_profile, g.hold, count(*) AS runs
FROM flow_gate g JOIN lane n ON n.tenant_id = g.tenant_id AND n.id = g.lane_id
WHERE g.hold IS NOT NULL GROUP BY n.model_profile, g.hold;


-- name: details(tenant_id, run_id)
-- Returns what is stored about a run beside its job: why it is held, and its progress. Index: primary keys.
SELECT g.hold, g.held, g.turns, g.arrived, g.seen, g.need, g.parked_at IS NOT NULL AS parked
FROM flow_gate g WHERE g.tenant_id = :tenant_id AND g.run_id = :run_id;


-- name: tree_steps(tenant_id, run_id, from_no, limit)
-- Returns steps of a run in order. Index: primary key of flow_step.
SELECT no, key, kind, name, target, job_id, due, at FROM flow_step
WHERE tenant_id = :tenant_id AND run_id = :run_id AND no >= :from_no::int ORDER BY no LIMIT :limit::int;


-- name: tree_ends(tenant_id, run_id, low, high)
-- Returns the ends of steps of a run. Index: primary key of flow_mail, all mail of the run.
SELECT no, kind, status, category, message, at FROM flow_mail
WHERE tenant_id = :tenant_id AND run_id = :run_id AND no >= :low::int AND no <= :high::int ORDER BY id;


-- name: received_signals(tenant_id, run_id, low, high)
-- Returns the steps that waited for a signal which has arrived: signals of a name go to its waits in order. A wait that timed out
-- before it may be returned in place of a later one. Indexes: primary keys of flow_step and flow_mail.
WITH waits AS (
    SELECT no, name, row_number() OVER (PARTITION BY name ORDER BY no) AS place FROM flow_step
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND no <= :high::int AND kind = 'signal'
), come AS (
    SELECT name, count(*) AS signals FROM flow_mail
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND kind = 'signal' GROUP BY name
)
SELECT w.no FROM waits w JOIN come c ON c.name = w.name WHERE w.no >= :low::int AND w.place <= c.signals;


-- name: tree_jobs(tenant_id, job_ids)
-- Returns the states of child jobs. Index: primary keys.
SELECT v.id, v.status, v.attempt, v.started_at, v.finished_at, v.progress, v.hold, v.error_category, v.error_message
FROM unnest(:job_ids::uuid[]) AS w(id)
CROSS JOIN LATERAL (SELECT * FROM jobs WHERE tenant_id = :tenant_id AND id = w.id OFFSET 0) v;


-- name: map_counts(tenant_id, run_ids)
-- Returns, for maps that have not ended, how many items wait, run, and have ended. Index: primary key of flow_block.
SELECT w.run_id, b.* FROM unnest(:run_ids::uuid[]) AS w(run_id)
CROSS JOIN LATERAL (
    SELECT sum(items)::int AS items, coalesce(sum(items) FILTER (WHERE unfinished IS NULL), 0)::int AS waiting,
           coalesce(sum(unfinished), 0)::int AS running, sum(failed)::int AS failed
    FROM flow_block WHERE tenant_id = :tenant_id AND run_id = w.run_id HAVING count(*) > 0 OFFSET 0
) b;


-- name: lock_home(tenant_id, run_id)
-- Locks the row that holds the state of a job which has not ended. Index: the tables' keys by job id.
WITH r AS MATERIALIZED (SELECT 1 FROM ready WHERE tenant_id = :tenant_id AND job_id = :run_id FOR UPDATE),
l AS MATERIALIZED (SELECT 1 FROM later WHERE tenant_id = :tenant_id AND job_id = :run_id FOR UPDATE),
e AS MATERIALIZED (SELECT 1 FROM lease WHERE tenant_id = :tenant_id AND job_id = :run_id FOR UPDATE)
SELECT (SELECT count(*) FROM r) + (SELECT count(*) FROM l) + (SELECT count(*) FROM e);


-- name: end_open(tenant_id, run_id)
-- Ends a run at once, without its code: its children are cancelled, and its parent gets mail. Returns nothing if it has ended.
-- Locks: gates in the order of their ids; the caller's transaction has the lock of the row of ready, later or lease.
WITH held AS MATERIALIZED (
    SELECT g.run_id, g.series_id, g.attempt, g.enqueued_at, g.started_at, g.parked_at, g.parent_id, g.step_no, g.progress
    FROM flow_gate g WHERE g.tenant_id = :tenant_id AND g.run_id = :run_id FOR UPDATE
), from_ready AS (
    DELETE FROM ready WHERE tenant_id = :tenant_id AND job_id = :run_id RETURNING attempt
), from_later AS (
    DELETE FROM later WHERE tenant_id = :tenant_id AND job_id = :run_id RETURNING attempt
), from_lease AS (
    DELETE FROM lease WHERE tenant_id = :tenant_id AND job_id = :run_id RETURNING attempt, epoch, worker_id
), home AS MATERIALIZED (
    SELECT 'pending' AS state, attempt, NULL::bigint AS epoch, NULL::text AS worker_id FROM from_ready
    UNION ALL SELECT 'pending', attempt, NULL, NULL FROM from_later
    UNION ALL SELECT 'running', attempt, epoch, worker_id FROM from_lease
    UNION ALL SELECT 'waiting', attempt, NULL, NULL FROM held WHERE parked_at IS NOT NULL
), ended AS MATERIALIZED (
    SELECT h.*, m.state, m.attempt AS attempts, m.epoch, m.worker_id FROM held h CROSS JOIN (SELECT * FROM home LIMIT 1) m
), kept AS (
    INSERT INTO done (tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, finished_at, cancel_requested_at,
                      status, worker_id, progress)
    SELECT :tenant_id, run_id, series_id, attempts, epoch, enqueued_at, started_at, clock(), clock(), 'cancelled', worker_id,
           progress
    FROM ended
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, pending, running, waiting, cancelled)
    SELECT :tenant_id, series_id, -(state = 'pending')::int, -(state = 'running')::int, -(state = 'waiting')::int, 1 FROM ended
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, attempts)
    SELECT :tenant_id, clock(), 'job.cancelled', ARRAY[run_id], ARRAY[series_id], ARRAY[attempts] FROM ended
), mailed AS MATERIALIZED (
    SELECT d.* FROM (
        SELECT array_agg(run_id) AS run_ids,
               array_agg(ROW(parent_id, 'ended', step_no, '', 'cancelled', run_id, NULL, 'cancelled', 'ended by force',
                             NULL)::flow_letter) FILTER (WHERE parent_id IS NOT NULL) AS letters
        FROM ended HAVING count(*) > 0
    ) e CROSS JOIN LATERAL flow_ended(:tenant_id, e.run_ids, e.letters) d
)
SELECT e.run_id, (SELECT array_agg(run_id) FROM mailed) AS mailed, (SELECT array_agg(woken) FROM mailed) AS woken FROM ended e;


-- name: move_open(tenant_id, run_id, series_id, lane_id)
-- Moves a run that has not ended and is not being executed to the queue of another version; returns nothing otherwise. The one update
-- of a row of "job": its queue. A run that is ready takes a new place in its new lane.
-- Locks: the gate; the caller's transaction has the lock of the row of ready or later. Indexes: primary keys.
WITH gate AS MATERIALIZED (
    SELECT g.run_id, g.series_id, g.parked_at FROM flow_gate g
    WHERE g.tenant_id = :tenant_id AND g.run_id = :run_id
      AND NOT EXISTS (SELECT FROM lease WHERE tenant_id = :tenant_id AND job_id = :run_id OFFSET 0)
    FOR UPDATE
), moved AS (
    UPDATE flow_gate SET series_id = :series_id, lane_id = :lane_id
    WHERE tenant_id = :tenant_id AND run_id = (SELECT run_id FROM gate) RETURNING run_id
), unready AS (
    DELETE FROM ready WHERE tenant_id = :tenant_id AND job_id = (SELECT run_id FROM gate) RETURNING *
), queued AS (
    INSERT INTO ready (tenant_id, job_id, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes,
                       enqueued_at, concurrency_key, parent_id, step_no)
    SELECT :tenant_id, job_id, :lane_id, :series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes,
           enqueued_at, concurrency_key, parent_id, step_no
    FROM unready
    WHERE concurrency_key IS NULL OR NOT EXISTS (SELECT FROM limited_lane WHERE id = :lane_id OFFSET 0)
), blocked AS ( -- until admit() finds a place of their concurrency key
    INSERT INTO later (tenant_id, job_id, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes,
                       enqueued_at, concurrency_key, parent_id, step_no)
    SELECT :tenant_id, job_id, :lane_id, :series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes,
           enqueued_at, concurrency_key, parent_id, step_no
    FROM unready
    WHERE concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = :lane_id OFFSET 0)
), postponed AS (
    UPDATE later SET series_id = :series_id, lane_id = :lane_id
    WHERE tenant_id = :tenant_id AND job_id = (SELECT run_id FROM gate)
), described AS (
    UPDATE job SET series_id = :series_id, lane_id = :lane_id
    WHERE tenant_id = :tenant_id AND id = (SELECT run_id FROM gate)
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, waiting, pending)
    SELECT :tenant_id, d.series_id, d.runs * (g.parked_at IS NOT NULL)::int, d.runs * (g.parked_at IS NULL)::int
    FROM gate g CROSS JOIN LATERAL (VALUES (g.series_id, -1), (:series_id::int, 1)) AS d(series_id, runs)
    WHERE g.series_id <> :series_id
)
SELECT run_id, EXISTS (SELECT FROM unready) AS ready FROM moved;


-- name: history_bytes(tenant_id, run_id)
-- Returns about how many bytes the history of a run has. Indexes: primary keys of flow_step, flow_mail and done.
SELECT coalesce((SELECT sum(200 + octet_length(key) + coalesce(octet_length(target::text), 0)) FROM flow_step
                 WHERE tenant_id = :tenant_id AND run_id = :run_id), 0)
     + coalesce((SELECT sum(200 + coalesce(octet_length(m.value::text), d.bytes, 0)) FROM flow_mail m
                 LEFT JOIN LATERAL (
                     SELECT octet_length(result::text) AS bytes FROM done
                     WHERE tenant_id = :tenant_id AND job_id = m.child_id AND m.value IS NULL OFFSET 0
                 ) d ON true
                 WHERE m.tenant_id = :tenant_id AND m.run_id = :run_id), 0);


-- name: tree_parts(tenant_id, run_ids, nos, ids, known_at, limit)
-- Returns the next jobs of each of these runs, after a step and job, without items of maps: at most limit of each run.
-- "is_old": it had ended long before known_at (null: before now), so that no later event of it follows. Indexes: job_parent,
-- primary key of done.
SELECT w.run_id, j.step_no, j.id, s.task_type = 'flow' AS is_run,
       coalesce(d.finished_at < coalesce(:known_at::timestamptz, clock()) - interval '10 minutes', false) AS is_old
FROM unnest(:run_ids::uuid[], :nos::int[], :ids::uuid[]) AS w(run_id, no, id)
CROSS JOIN LATERAL (
    SELECT id, step_no, series_id FROM job
    WHERE tenant_id = :tenant_id AND parent_id = w.run_id AND step_no >= 0 AND (step_no, id) > (w.no, w.id)
    ORDER BY step_no, id LIMIT :limit::int
) j
JOIN series s ON s.tenant_id = :tenant_id AND s.id = j.series_id
LEFT JOIN LATERAL (SELECT finished_at FROM done WHERE tenant_id = :tenant_id AND job_id = j.id OFFSET 0) d ON true
ORDER BY w.run_id, j.step_no, j.id;
