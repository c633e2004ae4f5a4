-- Why a job waits. Loaded by penstock.jobs.sql.why.
-- The rules at the head of queries.sql hold here too.


-- name: place(tenant_id, job_id, at_most)
-- Returns how many jobs of its queue come before a ready job, counted up to a number; no row unless it is ready.
-- Index: key of ready by job id; primary key of ready, once for each lane of the queue.
SELECT count(a.found)::int AS ahead
FROM ready r
JOIN lane own ON own.tenant_id = :tenant_id AND own.id = r.lane_id
LEFT JOIN LATERAL (
    SELECT true AS found
    FROM lane n
    CROSS JOIN LATERAL (
        SELECT 1 FROM ready
        WHERE lane_id = n.id AND seq >= n.low_seq AND tenant_id = :tenant_id AND (n.id <> own.id OR seq < r.seq)
        ORDER BY seq LIMIT :at_most::int
    ) b
    WHERE n.tenant_id = :tenant_id AND n.task_type = own.task_type AND n.model_profile = own.model_profile
      AND (n.id = own.id OR n.priority > own.priority)
    LIMIT :at_most::int
) a ON true
WHERE r.tenant_id = :tenant_id AND r.job_id = :job_id
GROUP BY r.job_id;


-- name: blocked(tenant_id, job_id, limit)
-- Returns, for a job that waits for a place of its concurrency key, the places of the key, how many are held, some of the
-- jobs that hold them, and how many blocked jobs of the key come before it, counted up to a thousand. No row unless it is
-- blocked.
-- Index: primary key of later; unique index of lane; lease_key, ready_key, later_blocked, once for each keyed lane of the queue.
SELECT s.places, (s.running + s.ready)::int AS holders,
       ARRAY(
           SELECT h.job_id FROM lane n
           CROSS JOIN LATERAL (
               (SELECT job_id FROM lease WHERE lane_id = n.id AND concurrency_key = w.concurrency_key AND tenant_id = :tenant_id
                LIMIT :limit::int)
               UNION ALL
               (SELECT job_id FROM ready WHERE lane_id = n.id AND concurrency_key = w.concurrency_key AND tenant_id = :tenant_id
                LIMIT :limit::int)
           ) h
           WHERE n.tenant_id = :tenant_id AND n.task_type = own.task_type AND n.model_profile = own.model_profile AND n.keyed
           LIMIT :limit::int
       ) AS job_ids,
       (SELECT count(*) FROM (
           SELECT FROM lane n
           CROSS JOIN LATERAL (
               SELECT FROM later
               WHERE lane_id = n.id AND concurrency_key = w.concurrency_key AND run_at IS NULL AND tenant_id = :tenant_id
                 AND (n.id <> own.id OR (enqueued_at, job_id) < (w.enqueued_at, w.job_id))
               LIMIT 1000
           ) b
           WHERE n.tenant_id = :tenant_id AND n.task_type = own.task_type AND n.model_profile = own.model_profile AND n.keyed
             AND (n.id = own.id OR n.priority > own.priority)
           LIMIT 1000
       ) a)::int AS ahead
FROM later w
JOIN lane own ON own.tenant_id = :tenant_id AND own.id = w.lane_id
CROSS JOIN LATERAL key_states(ARRAY[w.tenant_id], ARRAY[own.task_type], ARRAY[own.model_profile], ARRAY[w.concurrency_key]) s
WHERE w.tenant_id = :tenant_id AND w.job_id = :job_id AND w.run_at IS NULL;


-- name: running(tenant_id, task_type, model_profile, limit)
-- Returns how many jobs of a tenant run in one queue or, with the names '', in all queues, and the ids of the oldest.
-- Index: primary key of lease, for all leases of the tenant.
SELECT count(*)::int AS jobs, (array_agg(l.job_id ORDER BY l.started_at))[1:(:limit::int)] AS job_ids
FROM lease l JOIN lane n ON n.tenant_id = :tenant_id AND n.id = l.lane_id
WHERE l.tenant_id = :tenant_id AND (:task_type::text = '' OR (n.task_type = :task_type AND n.model_profile = :model_profile));


-- name: durations(tenant_id, task_type, model_profile, limit)
-- Returns how many seconds completed jobs of a queue took: those among the newest thousand finished jobs of the tenant.
-- Index: primary key of done, backwards.
SELECT extract(epoch FROM d.finished_at - d.started_at)::float8 AS seconds
FROM (
    SELECT job_id, series_id, status, started_at, finished_at FROM done
    WHERE tenant_id = :tenant_id ORDER BY job_id DESC LIMIT 1000
) d
JOIN series s ON s.tenant_id = :tenant_id AND s.id = d.series_id
WHERE d.status = 'completed' AND s.task_type = :task_type AND s.model_profile = :model_profile
ORDER BY d.job_id DESC LIMIT :limit::int;
