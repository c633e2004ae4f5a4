-- The stored events of one job. Loaded by penstock.jobs.sql.history.
-- The rules at the head of queries.sql hold here too.


-- name: concerns_job(tenant_id, job_id, event_id, at)
-- Returns whether an event row concerns a job. Index: event_order.
SELECT true FROM event
WHERE tenant_id = :tenant_id AND at = :at AND id = :event_id AND (job_id = :job_id OR :job_id = ANY (job_ids));


-- name: read_job_events(tenant_id, job_id, row_id, limit, max_bytes)
-- Returns a job's event rows with ids above row_id, in order, with their positions, which are null until they are assigned.
-- Returns at most limit rows, and no more once their data exceeds max_bytes (the row that exceeds it is still returned);
-- available is the number of rows without that bound. A job's events are written one after the other, each under a lock of
-- the job, so their ids, commits and positions have the same order. A state row and its event have the same clock(), because
-- one statement wrote both: that finds the event rows that cover many jobs. Indexes: event_at, event_job,
-- event_position_event, primary keys.
WITH moments AS MATERIALIZED (
    SELECT created_at AS at FROM job WHERE tenant_id = :tenant_id AND id = :job_id
    UNION SELECT unnest(ARRAY[enqueued_at, started_at, finished_at]) FROM attempt WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT unnest(ARRAY[enqueued_at, started_at]) FROM lease WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT unnest(ARRAY[enqueued_at, started_at, finished_at]) FROM done WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT enqueued_at FROM ready WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT enqueued_at FROM later WHERE tenant_id = :tenant_id AND job_id = :job_id
)
SELECT w.id, w.position, w.at, w.kind, w.subject, w.job_id, w.job_ids, w.series_ids, w.epochs, w.attempts, w.first, w.data,
       w.available
FROM (
    SELECT e.*, p.position, count(*) OVER () AS available, sum(coalesce(e.weight, 0)) OVER (ORDER BY e.id) AS reached
    FROM (
        SELECT e.* FROM moments m
        CROSS JOIN LATERAL (
            SELECT * FROM event
            WHERE at = m.at AND tenant_id = :tenant_id AND job_ids IS NOT NULL AND :job_id = ANY (job_ids) AND id > :row_id::bigint
            OFFSET 0 -- forces one index scan per time, even if the plan was made while the table was small
        ) e
        UNION ALL
        (SELECT * FROM event
         WHERE tenant_id = :tenant_id AND job_id = :job_id AND id > :row_id::bigint
         ORDER BY id LIMIT :limit::int)
        ORDER BY id LIMIT :limit::int
    ) e
    LEFT JOIN LATERAL (
        SELECT position FROM event_position WHERE tenant_id = :tenant_id AND event_id = e.id AND at = e.at LIMIT 1
    ) p ON true
) w
WHERE w.reached - coalesce(w.weight, 0) <= :max_bytes::bigint
ORDER BY w.id;
