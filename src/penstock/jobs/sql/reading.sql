-- Statements that read jobs, lists and counts. Loaded by penstock.jobs.sql.reading.
-- The rules at the head of queries.sql hold here too.


-- name: get(tenant_id, job_ids)
-- Returns whole jobs. Index: primary keys of job, ready, later, lease, done.
SELECT v.* FROM unnest(:job_ids::uuid[]) AS w(id)
CROSS JOIN LATERAL (SELECT * FROM jobs WHERE tenant_id = :tenant_id AND id = w.id OFFSET 0) v;


-- name: attempts(tenant_id, job_id)
-- Returns a job's failed and lost attempts, oldest first; if there are many, only the newest thousand. Index: primary key of
-- attempt.
SELECT * FROM (
    SELECT attempt, epoch, worker_id, started_at, finished_at, category, message, usage
    FROM attempt WHERE tenant_id = :tenant_id AND job_id = :job_id ORDER BY epoch DESC LIMIT 1000
) newest ORDER BY epoch;


-- name: usage_of(tenant_id, job_ids)
-- Returns the calls of jobs to providers, attempt by attempt, and the agreement in a result. A result is read only if
-- several providers were called, and not if it holds U+0000: PostgreSQL stores such JSON but cannot extract values from it.
-- Index: primary keys.
SELECT w.id, u.usage, u.agreement
FROM unnest(:job_ids::uuid[]) AS w(id)
CROSS JOIN LATERAL (
    (SELECT usage, CASE WHEN json_array_length(usage) > 1 AND json_typeof(result) = 'object'
                         THEN CASE WHEN position('\u0000' IN result::text) = 0
                                   THEN CASE WHEN json_typeof(result->'agreement') = 'array' THEN result->'agreement' END
                              END END AS agreement
     FROM done WHERE tenant_id = :tenant_id AND job_id = w.id AND usage IS NOT NULL OFFSET 0)
    UNION ALL
    (SELECT usage, NULL FROM attempt WHERE tenant_id = :tenant_id AND job_id = w.id AND usage IS NOT NULL
     ORDER BY epoch DESC LIMIT 100)
) u;


-- name: scan_jobs(tenant_id, low, high, budget)
-- Returns candidates for a list, newest first: any job. low <= id < high. Index: primary key of job.
SELECT id FROM job WHERE tenant_id = :tenant_id AND id >= :low::uuid AND id < :high::uuid ORDER BY id DESC LIMIT :budget::int;


-- name: scan_series(tenant_id, series_ids, low, high, budget)
-- Returns candidates for a list, newest first: jobs of these series. Index: job_series, once per series.
SELECT j.id FROM unnest(:series_ids::int[]) AS s(id)
CROSS JOIN LATERAL (
    SELECT id FROM job WHERE series_id = s.id AND tenant_id = :tenant_id AND id >= :low::uuid AND id < :high::uuid
    ORDER BY id DESC LIMIT :budget::int
) j ORDER BY j.id DESC LIMIT :budget::int;


-- name: scan_owner_ref(tenant_id, owner_ref, low, high, budget)
-- Returns candidates for a list, newest first: jobs about one reference. Index: job_owner_ref.
SELECT id FROM job WHERE tenant_id = :tenant_id AND owner_ref = :owner_ref AND owner_ref <> ''
  AND id >= :low::uuid AND id < :high::uuid ORDER BY id DESC LIMIT :budget::int;


-- name: scan_user(tenant_id, user_id, low, high, budget)
-- Returns candidates for a list, newest first: jobs of one end user. Index: job_user.
SELECT id FROM job WHERE tenant_id = :tenant_id AND user_id = :user_id AND user_id <> ''
  AND id >= :low::uuid AND id < :high::uuid ORDER BY id DESC LIMIT :budget::int;


-- name: scan_concurrency_key(tenant_id, concurrency_key, low, high, budget)
-- Returns candidates for a list, newest first: jobs with one concurrency key. Index: job_concurrency_key.
SELECT id FROM job WHERE tenant_id = :tenant_id AND concurrency_key = :concurrency_key
  AND id >= :low::uuid AND id < :high::uuid ORDER BY id DESC LIMIT :budget::int;


-- name: scan_pending(tenant_id, low, high, budget)
-- Returns candidates for a list, newest first: ready and later jobs. Index: the tables' keys by job id.
SELECT job_id AS id FROM (
    (SELECT job_id FROM ready WHERE tenant_id = :tenant_id AND job_id >= :low::uuid AND job_id < :high::uuid
     ORDER BY job_id DESC LIMIT :budget::int)
    UNION ALL
    (SELECT job_id FROM later WHERE tenant_id = :tenant_id AND job_id >= :low::uuid AND job_id < :high::uuid
     ORDER BY job_id DESC LIMIT :budget::int)
) p ORDER BY job_id DESC LIMIT :budget::int;


-- name: scan_running(tenant_id, low, high, budget)
-- Returns candidates for a list, newest first: leased jobs. Index: primary key of lease.
SELECT job_id AS id FROM lease WHERE tenant_id = :tenant_id AND job_id >= :low::uuid AND job_id < :high::uuid
ORDER BY job_id DESC LIMIT :budget::int;


-- name: scan_waiting(tenant_id, low, high, budget)
-- Returns candidates for a list, newest first: parked runs of flows. Index: primary key of flow_gate, which holds only
-- unfinished runs.
SELECT run_id AS id FROM flow_gate WHERE tenant_id = :tenant_id AND run_id >= :low::uuid AND run_id < :high::uuid
  AND parked_at IS NOT NULL ORDER BY run_id DESC LIMIT :budget::int;


-- name: scan_unsuccessful(tenant_id, status, low, high, budget)
-- Returns candidates for a list, newest first: jobs that failed, or were cancelled. Index: done_unsuccessful.
SELECT job_id AS id FROM done WHERE tenant_id = :tenant_id AND status = :status AND status <> 'completed'
  AND job_id >= :low::uuid AND job_id < :high::uuid ORDER BY job_id DESC LIMIT :budget::int;


-- name: matching(tenant_id, job_ids, owner_service, owner_ref, user_id, key_id, task_type, model_profile, statuses, priority, worker_id, error_category, idempotency_key, concurrency_key, tags, max_attempts, attempt, created_after, created_before, finished_after, finished_before)
-- Returns those candidates that match the whole filter, newest first, without their payloads. Index: primary keys.
SELECT v.id, v.owner_service, v.owner_ref, v.user_id, v.key_id, v.task_type, v.model_profile, v.status, v.priority, v.attempt, v.max_attempts,
       v.tags, v.created_at, v.run_at, v.expires_at, v.timeout_seconds, v.idempotency_key, v.concurrency_key,
       v.worker_id, v.lease_expires_at,
       v.cancel_requested_at, v.started_at, v.finished_at, v.progress, v.parent_id, v.hold, v.error_category, v.error_message
FROM unnest(:job_ids::uuid[]) AS w(id)
CROSS JOIN LATERAL (SELECT * FROM jobs WHERE tenant_id = :tenant_id AND id = w.id OFFSET 0) v
WHERE (:owner_service::text IS NULL OR v.owner_service = :owner_service)
  AND (:owner_ref::text IS NULL OR v.owner_ref = :owner_ref)
  AND (:user_id::text IS NULL OR v.user_id = :user_id)
  AND (:key_id::text IS NULL OR v.key_id = :key_id)
  AND (:task_type::text IS NULL OR v.task_type = :task_type)
  AND (:model_profile::text IS NULL OR v.model_profile = :model_profile)
  AND (:statuses::text[] IS NULL OR v.status = ANY (:statuses))
  AND (:priority::smallint IS NULL OR v.priority = :priority)
  AND (:worker_id::text IS NULL OR v.worker_id = :worker_id)
  AND (:error_category::text IS NULL OR v.error_category = :error_category)
  AND (:idempotency_key::text IS NULL OR v.idempotency_key = :idempotency_key)
  AND (:concurrency_key::text IS NULL OR v.concurrency_key = :concurrency_key)
  AND (:tags::text[] IS NULL OR v.tags @> :tags)
  AND (:max_attempts::smallint IS NULL OR v.max_attempts = :max_attempts)
  AND (:attempt::int IS NULL OR v.attempt = :attempt)
  AND (:created_after::timestamptz IS NULL OR v.created_at >= :created_after)
  AND (:created_before::timestamptz IS NULL OR v.created_at < :created_before)
  AND (:finished_after::timestamptz IS NULL OR v.finished_at >= :finished_after)
  AND (:finished_before::timestamptz IS NULL OR v.finished_at < :finished_before)
ORDER BY v.id DESC;


-- name: match_series(tenant_id, owner_service, task_type, model_profile)
-- Returns the series that a filter by owner or queue selects.
SELECT id FROM series
WHERE tenant_id = :tenant_id
  AND (:owner_service::text IS NULL OR owner_service = :owner_service)
  AND (:task_type::text IS NULL OR task_type = :task_type)
  AND (:model_profile::text IS NULL OR model_profile = :model_profile);


-- name: counts(tenant_id)
-- Returns the counters by owner, queue and error category: the totals plus the deltas not rolled up yet. Reads no job row.
SELECT s.owner_service, s.task_type, s.model_profile, c.category, sum(c.pending)::bigint AS pending,
       sum(c.running)::bigint AS running, sum(c.waiting)::bigint AS waiting, sum(c.completed)::bigint AS completed, sum(c.failed)::bigint AS failed,
       sum(c.cancelled)::bigint AS cancelled, sum(c.errors)::bigint AS errors
FROM (
    SELECT series_id, category, pending, running, waiting, completed, failed, cancelled, errors
    FROM stat WHERE tenant_id = :tenant_id
    UNION ALL
    SELECT series_id, category, pending, running, waiting, completed, failed, cancelled, errors
    FROM stat_delta WHERE tenant_id = :tenant_id
) c JOIN series s ON s.tenant_id = :tenant_id AND s.id = c.series_id
GROUP BY s.owner_service, s.task_type, s.model_profile, c.category
ORDER BY s.task_type, s.model_profile, s.owner_service, c.category;


-- name: usage_counts(tenant_id)
-- Returns the calls to providers by owner, queue, provider and model: the totals plus the deltas not rolled up yet.
SELECT s.owner_service, s.task_type, s.model_profile, u.provider, u.model, sum(u.calls)::bigint AS calls,
       sum(u.failures)::bigint AS failures, sum(u.prompt_tokens)::bigint AS prompt_tokens,
       sum(u.completion_tokens)::bigint AS completion_tokens, sum(u.audio_us)::bigint AS audio_us,
       sum(u.model_us)::bigint AS model_us
FROM (
    SELECT series_id, provider, model, calls, failures, prompt_tokens, completion_tokens, audio_us, model_us
    FROM usage_total WHERE tenant_id = :tenant_id
    UNION ALL
    SELECT series_id, provider, model, calls, failures, prompt_tokens, completion_tokens, audio_us, model_us
    FROM usage_delta WHERE tenant_id = :tenant_id AND provider <> ''
) u JOIN series s ON s.tenant_id = :tenant_id AND s.id = u.series_id
GROUP BY s.owner_service, s.task_type, s.model_profile, u.provider, u.model
ORDER BY s.task_type, s.model_profile, s.owner_service, u.provider, u.model;


-- name: oldest_pending(tenant_id)
-- Returns for how many seconds the first row of each queue has waited. Index: primary key of ready, once per lane.
SELECT n.task_type, n.model_profile, extract(epoch FROM clock() - min(r.enqueued_at))::float8 AS seconds
FROM lane n
CROSS JOIN LATERAL (
    SELECT enqueued_at FROM ready WHERE lane_id = n.id AND seq >= n.low_seq AND tenant_id = :tenant_id ORDER BY seq LIMIT 1
) r
WHERE n.tenant_id = :tenant_id
GROUP BY n.task_type, n.model_profile;


-- name: counts_of_all()
-- Return the counters by tenant, queue and error category: the totals plus the deltas not rolled up yet. Reads no job row.
-- tenant: every (metrics, for operators; the rows carry their tenant)
SELECT t.name AS tenant, s.task_type, s.model_profile, c.category, sum(c.pending)::bigint AS pending,
       sum(c.running)::bigint AS running, sum(c.waiting)::bigint AS waiting, sum(c.completed)::bigint AS completed, sum(c.failed)::bigint AS failed,
       sum(c.cancelled)::bigint AS cancelled, sum(c.errors)::bigint AS errors
FROM (
    SELECT tenant_id, series_id, category, pending, running, waiting, completed, failed, cancelled, errors FROM stat
    UNION ALL
    SELECT tenant_id, series_id, category, pending, running, waiting, completed, failed, cancelled, errors FROM stat_delta
) c
JOIN series s ON s.tenant_id = c.tenant_id AND s.id = c.series_id
JOIN tenant t ON t.id = c.tenant_id
GROUP BY t.name, s.task_type, s.model_profile, c.category;


-- name: oldest_pending_of_all()
-- Return how long the first row of each queue of each tenant has waited. Index: primary key of ready, once per lane.
-- tenant: every (metrics, for operators; the rows carry their tenant)
SELECT t.name AS tenant, n.task_type, n.model_profile, extract(epoch FROM clock() - min(r.enqueued_at))::float8 AS seconds
FROM lane n
JOIN tenant t ON t.id = n.tenant_id
CROSS JOIN LATERAL (
    SELECT enqueued_at FROM ready
    WHERE lane_id = n.id AND seq >= n.low_seq AND tenant_id = n.tenant_id ORDER BY seq LIMIT 1
) r
GROUP BY t.name, n.task_type, n.model_profile;


-- name: described(tenant_id, job_ids, at_most)
-- Returns what identifies jobs for their owners, and their results unless those have more than at_most bytes.
-- Indexes: primary keys of job and done.
SELECT j.id, j.owner_ref, j.user_id, j.tags, d.finished_at, d.result_bytes,
       CASE WHEN d.result_bytes <= :at_most::int THEN d.result END AS result
FROM unnest(:job_ids::uuid[]) AS w(job_id)
CROSS JOIN LATERAL (SELECT id, owner_ref, user_id, tags FROM job WHERE tenant_id = :tenant_id AND id = w.job_id OFFSET 0) j
LEFT JOIN LATERAL (
    SELECT finished_at, result, octet_length(result::text) AS result_bytes FROM done
    WHERE tenant_id = :tenant_id AND job_id = w.job_id OFFSET 0
) d ON true;
