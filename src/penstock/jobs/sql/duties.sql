-- Maintenance across all tenants: rescue, promotion, roll-up, hints. Loaded by penstock.jobs.sql.duties.
-- The rules at the head of queries.sql hold here too.


-- name: lock_expired(recovered_at, cancel_grace_seconds, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Locks the leases to rescue: expired ones, and cancelled ones that were not released within the grace period. After a gap
-- in the rescue duty (recovered_at) each lease gets its full length again. Scans lease, which holds only running jobs. Skips
-- leases that another transaction is ending.
SELECT l.tenant_id, l.job_id, l.epoch, l.worker_id, l.attempt, l.failures, l.losses, l.max_attempts,
       l.cancel_requested_at IS NOT NULL AS cancel_requested,
       EXISTS (SELECT FROM flow_gate WHERE tenant_id = l.tenant_id AND run_id = l.job_id) AS is_run
FROM lease l
WHERE greatest(l.lease_until, :recovered_at::timestamptz + make_interval(secs => l.lease_seconds)) < clock()
   OR l.cancel_requested_at + make_interval(secs => :cancel_grace_seconds::float8) < clock()
ORDER BY l.tenant_id, l.job_id LIMIT :limit::int FOR UPDATE SKIP LOCKED;


-- name: lock_leases_of(worker_ids, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Locks the leases of workers that are known to be dead. Scans lease. Skips locked rows.
SELECT l.tenant_id, l.job_id, l.epoch, l.worker_id, l.attempt, l.failures, l.losses, l.max_attempts,
       l.cancel_requested_at IS NOT NULL AS cancel_requested,
       EXISTS (SELECT FROM flow_gate WHERE tenant_id = l.tenant_id AND run_id = l.job_id) AS is_run
FROM lease l
WHERE l.worker_id = ANY (:worker_ids::text[])
ORDER BY l.tenant_id, l.job_id LIMIT :limit::int FOR UPDATE SKIP LOCKED;


-- name: promote(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Moves due jobs from later to ready; those that have a limited key become blocked, and are returned one by one. Locks: later
-- rows in due order, skipping locked ones. Index: later_due. The last row returned has no queue; it says when the next job
-- is due.
WITH due AS MATERIALIZED (
    SELECT tenant_id, job_id, lane_id, concurrency_key FROM later
    WHERE run_at <= clock() ORDER BY run_at, job_id LIMIT :limit::int FOR UPDATE SKIP LOCKED
), judged AS MATERIALIZED (
    SELECT d.*, d.concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = d.lane_id OFFSET 0) AS is_limited
    FROM due d
), moved AS (
    DELETE FROM later l USING judged d
    WHERE l.tenant_id = d.tenant_id AND l.job_id = d.job_id AND NOT d.is_limited RETURNING l.*
), blocked AS (
    UPDATE later l SET run_at = NULL, enqueued_at = l.run_at
    FROM judged d WHERE l.tenant_id = d.tenant_id AND l.job_id = d.job_id AND d.is_limited
    RETURNING l.lane_id, l.concurrency_key
), queued AS (
    INSERT INTO ready (tenant_id, job_id, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id,
                       input_bytes, enqueued_at, concurrency_key, parent_id, step_no)
    SELECT tenant_id, job_id, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes, run_at,
           concurrency_key, parent_id, step_no
    FROM moved ORDER BY run_at, job_id
)
(
    SELECT s.tenant_id, s.task_type, s.model_profile, count(*) AS jobs, NULL::interval AS due_in, NULL::int AS lane_id,
           NULL AS limited_key
    FROM moved m JOIN series s ON s.tenant_id = m.tenant_id AND s.id = m.series_id
    GROUP BY s.tenant_id, s.task_type, s.model_profile
)
UNION ALL
SELECT NULL, NULL, NULL, 1, NULL, lane_id, concurrency_key FROM blocked
UNION ALL
SELECT NULL, NULL, NULL, 0, (SELECT run_at FROM later WHERE run_at > clock() ORDER BY run_at LIMIT 1) - clock(), NULL, NULL;


-- name: begin_rescue()
-- tenant: every (no tenant's row)
-- Records that the rescue duty runs, and since when without a gap: after a gap longer than 5 s, or a restart of the server,
-- healthy workers may not have reached the database either. Also returns whether any lease is held. The commit does not wait
-- for the disk. Locks: one row; null when another process holds it.
UPDATE housekeeping h
SET recovered_at = CASE WHEN clock() - h.last_at > interval '5 seconds' OR pg_postmaster_start_time() > h.last_at
                        THEN clock() ELSE h.recovered_at END,
    last_at = clock()
WHERE h.duty = (SELECT duty FROM housekeeping WHERE duty = 'rescue' FOR UPDATE SKIP LOCKED)
RETURNING h.recovered_at, EXISTS (SELECT FROM lease) AS leases, set_config('synchronous_commit', 'off', true);


-- name: roll_up()
-- tenant: every (rows keep their tenant)
-- Adds the appended counter deltas to the totals; returns how many there were. Runs in one process at a time.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtext('penstock.roll_up')) AS mine
), taken AS (
    DELETE FROM stat_delta WHERE (SELECT mine FROM turn) RETURNING *
), summed AS (
    SELECT tenant_id, series_id, '' AS category, sum(pending) AS pending, sum(running) AS running,
           sum(waiting) AS waiting, sum(completed) AS completed, sum(failed) AS failed, sum(cancelled) AS cancelled, 0::bigint AS errors
    FROM taken GROUP BY tenant_id, series_id
    UNION ALL
    SELECT tenant_id, series_id, category, 0, 0, 0, 0, 0, 0, sum(errors) FROM taken WHERE errors <> 0
    GROUP BY tenant_id, series_id, category
), added AS (
    INSERT INTO stat AS t (tenant_id, series_id, category, pending, running, waiting, completed, failed, cancelled, errors)
    SELECT * FROM summed ORDER BY tenant_id, series_id, category
    ON CONFLICT (tenant_id, series_id, category) DO UPDATE
    SET pending = t.pending + excluded.pending, running = t.running + excluded.running,
        waiting = t.waiting + excluded.waiting, completed = t.completed + excluded.completed, failed = t.failed + excluded.failed,
        cancelled = t.cancelled + excluded.cancelled, errors = t.errors + excluded.errors
)
SELECT count(*) FROM taken;


-- name: raise_hints()
-- tenant: every (a hint, no data)
-- Sets each lane's low_seq to its first visible row or, in an empty lane, to the sequence's value at the last pass. Writes
-- only changes that matter. A row that is committed late lies before the hint until the next pass lowers it.
WITH pass AS (
    UPDATE housekeeping h SET last_at = clock(), note = (SELECT last_value FROM ready_seq)
    FROM (SELECT duty, note FROM housekeeping WHERE duty = 'lanes' FOR UPDATE SKIP LOCKED) old
    WHERE h.duty = old.duty RETURNING old.note
)
UPDATE lane n SET low_seq = f.first
FROM pass, LATERAL (
    SELECT m.id, coalesce((SELECT min(r.seq) FROM ready r WHERE r.lane_id = m.id), pass.note) AS first FROM lane m
) f
WHERE n.id = f.id AND (f.first < n.low_seq OR f.first > n.low_seq + 500);


-- name: ready_position()
-- tenant: every (a number, no row)
-- Returns the current value of the sequence of ready rows.
SELECT last_value FROM ready_seq;
