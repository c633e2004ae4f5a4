-- Statements that end and delete what is old. Loaded by penstock.callbacks.upkeep.


-- name: give_up(max_age_seconds, limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Ends deliveries that have waited too long: their endpoint rests, or is disabled. They are dead, and can be replayed.
-- Returns how many. Locks: rows of deliveries, skipping locked ones; then those of callback_state, in order.
-- Indexes: primary keys, callback_later_due.
WITH old_ready AS MATERIALIZED (
    SELECT r.row_tid FROM callback_state s
    CROSS JOIN LATERAL (
        SELECT at FROM callback_ready WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id
        ORDER BY position, place LIMIT 1
    ) f
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_ready
        WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id
          AND at < clock() - make_interval(secs => :max_age_seconds::float8)
        ORDER BY position, place LIMIT :limit::int FOR UPDATE SKIP LOCKED
    ) r
    WHERE s.waiting > 0 AND f.at < clock() - make_interval(secs => :max_age_seconds::float8) LIMIT :limit::int
), old_later AS MATERIALIZED (
    SELECT r.row_tid FROM callback_state s
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_later
        WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id
          AND due_at < clock() - make_interval(secs => :max_age_seconds::float8)
        ORDER BY due_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
    ) r
    WHERE s.waiting > 0 LIMIT :limit::int
), from_ready AS (
    DELETE FROM callback_ready WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old_ready)) RETURNING *
), from_later AS (
    DELETE FROM callback_later WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old_later)) RETURNING *
), gone AS (
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data, '[]'::json AS attempts FROM from_ready
    UNION ALL
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data, attempts FROM from_later
), ended AS (
    INSERT INTO callback_ended (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, ended_at, status,
                                attempts, data)
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, clock(), 'dead', attempts, data FROM gone
), counted AS (
    UPDATE callback_state s SET waiting = s.waiting - g.number, dead = s.dead + g.number
    FROM (SELECT tenant_id, endpoint_id, count(*) AS number FROM gone GROUP BY tenant_id, endpoint_id) g
    WHERE s.tenant_id = g.tenant_id AND s.endpoint_id = g.endpoint_id
)
SELECT count(*) FROM gone;


-- name: drop_ended(status, keep_seconds, limit)
-- tenant: every (retention)
-- Deletes deliveries that ended long ago; returns how many. Locks: their rows. Index: callback_ended_age.
WITH old AS MATERIALIZED (
    SELECT ctid AS row_tid FROM callback_ended
    WHERE status = :status AND ended_at < clock() - make_interval(secs => :keep_seconds::float8)
    ORDER BY ended_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
), dropped AS (
    DELETE FROM callback_ended WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old)) RETURNING 1
)
SELECT count(*) FROM dropped;


-- name: drop_jobs(keep_seconds, limit)
-- tenant: every (retention)
-- Deletes the callbacks of jobs that retention has dropped; returns how many. Locks: their rows. Indexes: primary keys.
WITH old AS MATERIALIZED (
    SELECT j.row_tid FROM callback_cursor c
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid, tenant_id, job_id FROM callback_job
        WHERE tenant_id = c.tenant_id
          AND job_id < uuid_floor(clock() - make_interval(secs => :keep_seconds::float8) - interval '1 day')
        ORDER BY job_id LIMIT :limit::int
    ) j
    WHERE NOT EXISTS (SELECT FROM job WHERE tenant_id = j.tenant_id AND id = j.job_id OFFSET 0)
    LIMIT :limit::int
), dropped AS (
    DELETE FROM callback_job WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old)) RETURNING 1
)
SELECT count(*) FROM dropped;


-- name: drop_unused(keep_seconds, limit)
-- tenant: every (retention)
-- Deletes endpoints that no submission has named for a long time and no job needs; returns how many.
-- Locks: their rows. Indexes: primary keys, callback_endpoint_digest.
WITH old AS MATERIALIZED (
    SELECT tenant_id, id FROM callback_endpoint e
    WHERE digest IS NOT NULL
      AND used_on < ((clock() - make_interval(secs => :keep_seconds::float8)) AT TIME ZONE 'UTC')::date - 2
      AND NOT EXISTS (
          SELECT FROM callback_job
          WHERE tenant_id = e.tenant_id AND job_id < uuid_floor((e.used_on + 1)::timestamp AT TIME ZONE 'UTC') OFFSET 0)
      AND NOT EXISTS (SELECT FROM callback_ready WHERE tenant_id = e.tenant_id AND endpoint_id = e.id OFFSET 0)
      AND NOT EXISTS (SELECT FROM callback_later WHERE tenant_id = e.tenant_id AND endpoint_id = e.id OFFSET 0)
      AND NOT EXISTS (SELECT FROM callback_ended WHERE tenant_id = e.tenant_id AND endpoint_id = e.id OFFSET 0)
    ORDER BY tenant_id, id LIMIT :limit::int FOR UPDATE SKIP LOCKED
), states AS (
    DELETE FROM callback_state WHERE (tenant_id, endpoint_id) IN (SELECT tenant_id, id FROM old)
), dropped AS (
    DELETE FROM callback_endpoint WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM old) RETURNING 1
)
SELECT count(*) FROM dropped;


-- name: removed(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Returns endpoints that were removed. Index: callback_endpoint_removed.
SELECT tenant_id, id FROM callback_endpoint WHERE removed_at IS NOT NULL ORDER BY removed_at LIMIT :limit::int;


-- name: drop_deliveries(tenant_id, endpoint_id, limit)
-- Deletes deliveries of an endpoint that was removed; returns how many. Locks: their rows. Indexes: primary keys.
WITH from_ready AS (
    DELETE FROM callback_ready WHERE tenant_id = :tenant_id AND ctid = ANY (ARRAY(
        SELECT ctid FROM callback_ready WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id LIMIT :limit::int)) RETURNING 1
), from_later AS (
    DELETE FROM callback_later WHERE tenant_id = :tenant_id AND ctid = ANY (ARRAY(
        SELECT ctid FROM callback_later WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id LIMIT :limit::int)) RETURNING 1
), from_ended AS (
    DELETE FROM callback_ended WHERE tenant_id = :tenant_id AND ctid = ANY (ARRAY(
        SELECT ctid FROM callback_ended WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id LIMIT :limit::int)) RETURNING 1
)
SELECT (SELECT count(*) FROM from_ready) + (SELECT count(*) FROM from_later) + (SELECT count(*) FROM from_ended);


-- name: drop_endpoint(tenant_id, endpoint_id)!
-- Deletes an endpoint that was removed and has no deliveries left. Indexes: primary keys.
WITH state AS (
    DELETE FROM callback_state WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id
)
DELETE FROM callback_endpoint WHERE tenant_id = :tenant_id AND id = :endpoint_id;
