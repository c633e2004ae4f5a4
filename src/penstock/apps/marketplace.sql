-- Statements for messages to the marketplace. Loaded by penstock.apps.marketplace.


-- name: attempts(tenant_id, run_ids, limit)
-- Returns the attempts that have ended of all jobs in the trees of requests, up to limit of them, as records count them: runs have
-- none. Indexes: job_parent; primary keys of job, done and attempt.
WITH RECURSIVE tree AS (
    SELECT w.id AS run_id, w.id AS job_id, NULL::integer AS series_id, 0 AS depth FROM unnest(:run_ids::uuid[]) AS w(id)
    UNION ALL
    SELECT t.run_id, j.id, j.series_id, t.depth + 1
    FROM tree t
    CROSS JOIN LATERAL (SELECT id, series_id FROM job WHERE tenant_id = :tenant_id AND parent_id = t.job_id OFFSET 0) j
    WHERE t.depth < 100
)
SELECT t.run_id, a.job_id, a.epoch
FROM tree t
JOIN series s ON s.tenant_id = :tenant_id AND s.id = t.series_id AND s.task_type <> 'flow'
CROSS JOIN LATERAL (
    (SELECT job_id, epoch FROM done WHERE tenant_id = :tenant_id AND job_id = t.job_id AND status = 'completed' OFFSET 0)
    UNION ALL
    (SELECT job_id, epoch FROM attempt WHERE tenant_id = :tenant_id AND job_id = t.job_id OFFSET 0)
) a
LIMIT :limit::int;
