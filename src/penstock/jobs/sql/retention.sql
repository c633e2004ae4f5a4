-- Statements that create partitions ahead of time and drop old days. They apply to every tenant.


-- name: days()
-- Returns the days that have partitions.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('job'::regclass, 'event'::regclass) AND c.relname ~ '_[0-9]{8}$'
GROUP BY 1 ORDER BY 1;


-- name: drop_day(day, cutoff)
-- Drops one day; returns how many jobs were kept because they are not finished, or finished at or after the cutoff.
SELECT drop_day(:day, :cutoff);


-- name: drop_from_default(cutoff, limit)
-- Removes finished jobs from the default partitions, by row, except those that a run issued which has not ended; returns how many.
-- Skips locked rows.
WITH old AS MATERIALIZED (
    SELECT tenant_id, job_id FROM done_default d WHERE finished_at < :cutoff::timestamptz
      AND NOT EXISTS (
          SELECT FROM job_default j JOIN flow_gate g ON g.tenant_id = j.tenant_id AND g.run_id = j.parent_id
          WHERE j.tenant_id = d.tenant_id AND j.id = d.job_id)
    ORDER BY tenant_id, job_id LIMIT :limit::int FOR UPDATE SKIP LOCKED
), a AS (
    DELETE FROM attempt_default WHERE (tenant_id, job_id) IN (SELECT tenant_id, job_id FROM old)
), j AS (
    DELETE FROM job_default WHERE (tenant_id, id) IN (SELECT tenant_id, job_id FROM old)
), m AS (
    DELETE FROM flow_mail_default WHERE (tenant_id, run_id) IN (SELECT tenant_id, job_id FROM old)
), s AS (
    DELETE FROM flow_step_default WHERE (tenant_id, run_id) IN (SELECT tenant_id, job_id FROM old)
), t AS (
    DELETE FROM flow_turn_default WHERE (tenant_id, run_id) IN (SELECT tenant_id, job_id FROM old)
), d AS (
    DELETE FROM done_default WHERE (tenant_id, job_id) IN (SELECT tenant_id, job_id FROM old) RETURNING 1
)
SELECT count(*) FROM d;


-- name: drop_stray_events(cutoff)!
-- Removes old events from the default partition, with their positions; those without a position stay.
WITH dropped AS (
    DELETE FROM event_position_default WHERE at < :cutoff::timestamptz RETURNING tenant_id, position, event_id, at
), events AS (
    DELETE FROM event_default WHERE id = ANY (ARRAY(SELECT event_id FROM dropped))
)
INSERT INTO event_floor AS f (tenant_id, position, at)
SELECT DISTINCT ON (tenant_id) tenant_id, position, at FROM dropped ORDER BY tenant_id, position DESC
ON CONFLICT (tenant_id) DO UPDATE SET position = excluded.position, at = excluded.at WHERE f.position < excluded.position;


-- name: drop_keys(below, limit)
-- Frees idempotency keys of jobs that no longer exist, lowest job ids first; returns how many. Index: idempotency_job.
WITH gone AS MATERIALIZED (
    SELECT i.tenant_id, i.owner_service, i.key FROM idempotency i
    WHERE i.job_id < uuid_floor(:below::timestamptz)
      AND NOT EXISTS (SELECT FROM job j WHERE j.tenant_id = i.tenant_id AND j.id = i.job_id OFFSET 0)
    ORDER BY i.job_id LIMIT :limit::int FOR UPDATE OF i SKIP LOCKED
), d AS (
    DELETE FROM idempotency i USING gone g
    WHERE i.tenant_id = g.tenant_id AND i.owner_service = g.owner_service AND i.key = g.key RETURNING 1
)
SELECT count(*) FROM d;
