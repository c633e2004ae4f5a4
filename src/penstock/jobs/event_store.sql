-- The event log as it is read. Loaded by penstock.jobs.event_store.
-- The rules at the head of queries.sql hold here too.


-- name: event_horizon()
-- tenant: every (a number, no row)
-- horizon: every event with txn below it is either visible to the next statement or will never be. Only our own
-- connections write events, so only they hold it back: not a stranger's long transaction. ahead: what it would be if
-- none of ours were writing. Must run as a statement of its own, before the one that reads: a transaction that ends in
-- between is then simply read the next time. backend_xid has 32 bits; the upper ones are those of the snapshot's xmax,
-- or one less when it has wrapped since.
WITH snapshot AS MATERIALIZED (
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax
), writing AS (
    SELECT a.backend_xid::text::bigint AS low
    FROM pg_stat_activity a
    WHERE a.backend_xid IS NOT NULL AND a.datname = current_database() AND a.application_name LIKE 'penstock-%'
)
SELECT least(s.xmax, (SELECT min(w.low + ((s.xmax >> 32) << 32) - CASE WHEN w.low > (s.xmax & 4294967295) THEN 4294967296 ELSE 0 END)
                      FROM writing w)) AS horizon, s.xmax AS ahead
FROM snapshot s;


-- name: read_events(tenant_id, txn, id, horizon, limit, most_bytes)
-- Events behind a position, in order, below the horizon: up to that many, and no more once their details exceed
-- most_bytes; available: how many there would have been. Index: event_order.
SELECT w.txn, w.id, w.at, w.type, w.job_id, w.job_ids, w.series_ids, w.epochs, w.attempts, w.first, w.detail, w.available
FROM (
    SELECT e.*, count(*) OVER () AS available, sum(coalesce(e.weight, 0)) OVER (ORDER BY e.txn, e.id) AS reached
    FROM (
        SELECT * FROM event
        WHERE tenant_id = :tenant_id AND (txn, id) > (:txn::bigint, :id::bigint) AND txn < :horizon::bigint
        ORDER BY txn, id LIMIT :limit::int
    ) e
) w
WHERE w.reached - coalesce(w.weight, 0) <= :most_bytes::bigint
ORDER BY w.txn, w.id;


-- name: read_job_events(tenant_id, job_id, txn, id, horizon, limit, most_bytes)
-- A single job's stored events behind a position, as many as read_events would give. A state row and its event carry the
-- same clock(), for one statement wrote both: that finds the event rows which speak for many jobs.
-- Indexes: event_at, event_job, primary keys.
WITH moments AS MATERIALIZED (
    SELECT created_at AS at FROM job WHERE tenant_id = :tenant_id AND id = :job_id
    UNION SELECT unnest(ARRAY[enqueued_at, started_at, finished_at]) FROM attempt WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT unnest(ARRAY[enqueued_at, started_at]) FROM lease WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT unnest(ARRAY[enqueued_at, started_at, finished_at]) FROM done WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT enqueued_at FROM ready WHERE tenant_id = :tenant_id AND job_id = :job_id
    UNION SELECT enqueued_at FROM later WHERE tenant_id = :tenant_id AND job_id = :job_id
)
SELECT w.txn, w.id, w.at, w.type, w.job_id, w.job_ids, w.series_ids, w.epochs, w.attempts, w.first, w.detail, w.available
FROM (
    SELECT e.*, count(*) OVER () AS available, sum(coalesce(e.weight, 0)) OVER (ORDER BY e.txn, e.id) AS reached
    FROM (
        SELECT e.* FROM moments m
        CROSS JOIN LATERAL (
            SELECT * FROM event
            WHERE at = m.at AND tenant_id = :tenant_id AND job_id IS NULL AND :job_id = ANY (job_ids)
              AND (txn, id) > (:txn::bigint, :id::bigint) AND txn < :horizon::bigint
            OFFSET 0 -- one look per moment, whatever a plan made while the table was small would prefer
        ) e
        UNION ALL
        (SELECT * FROM event
         WHERE tenant_id = :tenant_id AND job_id = :job_id
           AND (txn, id) > (:txn::bigint, :id::bigint) AND txn < :horizon::bigint
         ORDER BY txn, id LIMIT :limit::int)
        ORDER BY txn, id LIMIT :limit::int
    ) e
) w
WHERE w.reached - coalesce(w.weight, 0) <= :most_bytes::bigint
ORDER BY w.txn, w.id;
