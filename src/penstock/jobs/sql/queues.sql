-- The queues that workers serve, and jobs that expire. Loaded by penstock.jobs.sql.queues.
-- The rules at the head of queries.sql hold here too.


-- name: note_served(tenant_id, task_types, model_profiles)!
-- Notes that a worker claims from these queues; '' means any. A row that another process has just written is left unchanged.
-- Locks: rows of queue_seen, in key order.
INSERT INTO queue_seen AS s (tenant_id, task_type, model_profile, seen_at)
SELECT :tenant_id, q.task_type, q.model_profile, clock()
FROM unnest(:task_types::text[], :model_profiles::text[]) AS q(task_type, model_profile)
ORDER BY q.task_type, q.model_profile
ON CONFLICT (tenant_id, task_type, model_profile) DO UPDATE SET seen_at = clock()
WHERE s.seen_at < clock() - interval '30 seconds';


-- name: note_served_for(tenant_names, task_types, model_profiles)!
-- tenant: every (by workers of all tenants, which serve these queues for some)
-- Does the same for a worker that serves several tenants. Locks: rows of queue_seen, in key order.
INSERT INTO queue_seen AS s (tenant_id, task_type, model_profile, seen_at)
SELECT t.id, q.task_type, q.model_profile, clock()
FROM tenant t CROSS JOIN unnest(:task_types::text[], :model_profiles::text[]) AS q(task_type, model_profile)
WHERE t.name = ANY (:tenant_names::text[])
ORDER BY t.id, q.task_type, q.model_profile
ON CONFLICT (tenant_id, task_type, model_profile) DO UPDATE SET seen_at = clock()
WHERE s.seen_at < clock() - interval '30 seconds';


-- name: note_served_for_all(task_types, model_profiles)!
-- tenant: every (by workers of all tenants)
-- Does the same for a worker that serves all tenants. Locks: rows of shared_queue_seen, in key order.
INSERT INTO shared_queue_seen AS s (task_type, model_profile, seen_at)
SELECT q.task_type, q.model_profile, clock()
FROM unnest(:task_types::text[], :model_profiles::text[]) AS q(task_type, model_profile)
ORDER BY q.task_type, q.model_profile
ON CONFLICT (task_type, model_profile) DO UPDATE SET seen_at = clock()
WHERE s.seen_at < clock() - interval '30 seconds';


-- name: served(tenant_id, limit)
-- Returns the queues that workers of this tenant or of all tenants claimed from most recently, and how many seconds ago; a
-- queue may occur twice, the older one first. Index: primary keys of queue_seen and shared_queue_seen.
SELECT task_type, model_profile, extract(epoch FROM clock() - seen_at)::float8 AS seconds
FROM (
    SELECT * FROM (
        SELECT task_type, model_profile, seen_at FROM queue_seen WHERE tenant_id = :tenant_id
        UNION ALL
        SELECT task_type, model_profile, seen_at FROM shared_queue_seen
    ) s ORDER BY seen_at DESC LIMIT :limit::int
) s ORDER BY seen_at;


-- name: forget_served(keep_seconds)!
-- tenant: every (maintenance)
-- Forgets queues that no worker has claimed from for keep_seconds.
WITH own AS (
    DELETE FROM queue_seen WHERE seen_at < clock() - make_interval(secs => :keep_seconds::float8)
)
DELETE FROM shared_queue_seen WHERE seen_at < clock() - make_interval(secs => :keep_seconds::float8);


-- name: set_expiry(tenant_id, job_ids, expires_ats, ttls)!
-- Stores when new jobs expire: at a given time, or a number of seconds from now. It runs in the transaction that creates the
-- jobs, within which clock() does not change. Takes no lock that another transaction could hold.
INSERT INTO expiry (tenant_id, job_id, expires_at)
SELECT :tenant_id, x.job_id, coalesce(x.expires_at, clock() + make_interval(secs => x.ttl))
FROM unnest(:job_ids::uuid[], :expires_ats::timestamptz[], :ttls::float8[]) AS x(job_id, expires_at, ttl);


-- name: expire(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Fails pending jobs that have expired and that no worker has taken. If a claim or a cancel is taking one at the moment, waits
-- for that and leaves the job alone; a later pass, which finds the job elsewhere, removes its row in expiry. Each job has an
-- event row of its own, so that its history finds the event after a retry as well. limited_key is as in the statement "cancel".
-- Locks: expiry rows in the order of their time, skipping locked ones; then ready and later rows, each in job id order.
-- Index: expiry_due, and the tables' keys by job id.
WITH due AS MATERIALIZED (
    SELECT ctid AS row_tid, tenant_id, job_id, expires_at FROM expiry WHERE expires_at <= clock()
    ORDER BY expires_at, tenant_id, job_id LIMIT :limit::int FOR UPDATE SKIP LOCKED
), in_order AS MATERIALIZED (
    SELECT * FROM due ORDER BY job_id
), held_ready AS MATERIALIZED (
    SELECT r.row_tid FROM in_order d
    CROSS JOIN LATERAL (SELECT ctid AS row_tid FROM ready WHERE tenant_id = d.tenant_id AND job_id = d.job_id AND attempt = 0
                        FOR UPDATE) r
), held_later AS MATERIALIZED (
    SELECT l.row_tid FROM in_order d
    CROSS JOIN LATERAL (SELECT ctid AS row_tid FROM later WHERE tenant_id = d.tenant_id AND job_id = d.job_id AND attempt = 0
                        FOR UPDATE) l
), from_ready AS (
    DELETE FROM ready WHERE ctid = ANY (ARRAY(SELECT row_tid FROM held_ready))
    RETURNING tenant_id, job_id, series_id, attempt, enqueued_at, parent_id, step_no, lane_id, concurrency_key
), from_later AS (
    DELETE FROM later WHERE ctid = ANY (ARRAY(SELECT row_tid FROM held_later))
    RETURNING tenant_id, job_id, series_id, attempt, enqueued_at, parent_id, step_no, lane_id, NULL AS concurrency_key
), gone AS (
    SELECT g.*, format('no worker took the job until %s', to_char(d.expires_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) AS message
    FROM (SELECT * FROM from_ready UNION ALL SELECT * FROM from_later) g
    JOIN due d ON d.tenant_id = g.tenant_id AND d.job_id = g.job_id
), kept AS (
    INSERT INTO done (tenant_id, job_id, series_id, attempt, enqueued_at, finished_at, status, error_category, error_message)
    SELECT tenant_id, job_id, series_id, attempt, enqueued_at, clock(), 'failed', 'expired', message FROM gone
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, pending, failed)
    SELECT tenant_id, series_id, -count(*), count(*) FROM gone GROUP BY tenant_id, series_id
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_id, series_ids, attempts, data)
    SELECT tenant_id, clock(), 'job.failed', job_id, ARRAY[series_id], ARRAY[attempt],
           json_build_object('category', 'expired', 'message', message, 'run_at', NULL)
    FROM gone
), mailed AS MATERIALIZED (
    SELECT e.tenant_id, d.* FROM (
        SELECT tenant_id, array_agg(ROW(parent_id, 'ended', step_no, '', 'failed', job_id, NULL, 'expired', message,
                                        NULL)::flow_letter) FILTER (WHERE parent_id IS NOT NULL) AS letters,
               array_agg(job_id) AS job_ids
        FROM gone GROUP BY tenant_id ORDER BY tenant_id
    ) e CROSS JOIN LATERAL flow_ended(e.tenant_id, e.job_ids, e.letters) d
), waiting AS MATERIALIZED ( -- when the statement began
    SELECT d.job_id FROM due d
    CROSS JOIN LATERAL (SELECT FROM ready WHERE tenant_id = d.tenant_id AND job_id = d.job_id AND attempt = 0 OFFSET 0) r
    UNION ALL
    SELECT d.job_id FROM due d
    CROSS JOIN LATERAL (SELECT FROM later WHERE tenant_id = d.tenant_id AND job_id = d.job_id AND attempt = 0 OFFSET 0) l
), settled AS (
    DELETE FROM expiry WHERE ctid = ANY (ARRAY(
        SELECT row_tid FROM due
        WHERE job_id IN (SELECT job_id FROM gone) OR job_id NOT IN (SELECT job_id FROM waiting)
    ))
)
SELECT job_id, (SELECT count(*) FROM due) AS looked, (SELECT array_agg(run_id) FROM mailed) AS mailed,
       (SELECT array_agg(tenant_id) FROM mailed) AS mailed_tenants,
       (SELECT array_agg(woken) FROM mailed) AS woken, lane_id,
       CASE WHEN concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = gone.lane_id OFFSET 0) THEN concurrency_key
            END AS limited_key
FROM gone;


-- name: next_expiry()
-- tenant: every (a time, no row)
-- Returns the seconds until the next job expires; null if no job does. Index: expiry_due.
SELECT extract(epoch FROM expires_at - clock())::float8 FROM expiry ORDER BY expires_at, tenant_id, job_id LIMIT 1;
