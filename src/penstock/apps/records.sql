-- Statements that make records of requests from events. Loaded by penstock.apps.records.


-- name: begin_cursors()
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Adds a cursor for each tenant that has made a request of an app and has none. It begins at the tenant's first stored event.
-- Returns whether there is any cursor. Index: series_of_apps.
WITH missing AS (
    SELECT DISTINCT s.tenant_id FROM series s JOIN tenant t ON t.id = s.tenant_id AND t.deleting_since IS NULL
    WHERE s.owner_service LIKE 'app/%' AND NOT EXISTS (SELECT FROM app_cursor WHERE tenant_id = s.tenant_id)
), added AS (
    INSERT INTO app_cursor (tenant_id, position) SELECT tenant_id, 0 FROM missing ORDER BY tenant_id
    ON CONFLICT DO NOTHING RETURNING tenant_id
)
SELECT EXISTS (SELECT FROM app_cursor) OR EXISTS (SELECT FROM added);


-- name: cursors_behind(limit)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Returns the tenants that have events after their cursor. Indexes: primary keys.
SELECT c.tenant_id FROM app_cursor c
CROSS JOIN LATERAL (SELECT position FROM event_position WHERE tenant_id = c.tenant_id ORDER BY position DESC LIMIT 1) e
WHERE e.position > c.position LIMIT :limit;


-- name: lock_progress(tenant_id, limit)
-- Locks a tenant's cursor until the transaction ends, unless another transaction has it. Returns its position, the position at
-- which a page of events ends, and that of the last event. Locks: the row. Indexes: primary keys.
SELECT c.position, p.page_end, e.last
FROM (SELECT position FROM app_cursor WHERE tenant_id = :tenant_id FOR UPDATE SKIP LOCKED) c
CROSS JOIN LATERAL (
    SELECT max(position) AS page_end
    FROM (SELECT position FROM event_position WHERE tenant_id = :tenant_id AND position > c.position
          ORDER BY position LIMIT :limit::int) n
) p
CROSS JOIN LATERAL (
    SELECT max(position) AS last
    FROM (SELECT position FROM event_position WHERE tenant_id = :tenant_id ORDER BY position DESC LIMIT 1) n
) e;


-- name: changes(tenant_id, behind, upto, max_jobs)
-- Returns the jobs of requests that have events after behind, up to upto, in the order of the events. Stops at the event that
-- brings their number to max_jobs, which is returned whole; available is the number of events without that bound. Of jobs that are
-- not runs only the ends of attempts are returned. Indexes: series_of_apps; primary key of event_position; event_order.
WITH mine AS MATERIALIZED (
    SELECT id, task_type = 'flow' AS is_run FROM series WHERE tenant_id = :tenant_id AND owner_service LIKE 'app/%'
)
SELECT e.position, e.kind, u.job_id, u.epoch, m.is_run, e.available
FROM (
    SELECT p.position, n.kind, n.job_id, n.job_ids, n.series_ids, n.epochs, count(*) OVER () AS available,
           sum(cardinality(n.series_ids)) OVER (ORDER BY p.position) - cardinality(n.series_ids) AS before
    FROM (
        SELECT position, event_id, at FROM event_position
        WHERE tenant_id = :tenant_id AND position > :behind::bigint AND position <= :upto::bigint ORDER BY position OFFSET 0
    ) p
    CROSS JOIN LATERAL (
        SELECT kind, job_id, job_ids, series_ids, epochs FROM event
        WHERE tenant_id = :tenant_id AND at = p.at AND id = p.event_id
          AND kind IN ('job.created', 'job.completed', 'job.failed', 'job.cancelled', 'job.retrying', 'job.retried') OFFSET 0
    ) n
    WHERE n.series_ids && ARRAY(SELECT id FROM mine)
) e
CROSS JOIN LATERAL unnest(coalesce(e.job_ids, ARRAY[e.job_id]), e.series_ids, e.epochs) AS u(job_id, series_id, epoch)
JOIN mine m ON m.id = u.series_id
WHERE e.before < :max_jobs::int AND (m.is_run OR (u.epoch IS NOT NULL AND e.kind NOT IN ('job.created', 'job.retried')))
ORDER BY e.position;


-- name: requests_of(tenant_id, job_ids)
-- Returns the request that each job belongs to: the run at the root of its tree. Index: primary key of job.
WITH RECURSIVE up AS (
    SELECT j.id AS job_id, j.id, j.parent_id, j.series_id, 0 AS depth
    FROM unnest(:job_ids::uuid[]) AS w(id)
    CROSS JOIN LATERAL (SELECT id, parent_id, series_id FROM job WHERE tenant_id = :tenant_id AND id = w.id OFFSET 0) j
    UNION ALL
    SELECT u.job_id, j.id, j.parent_id, j.series_id, u.depth + 1
    FROM up u
    CROSS JOIN LATERAL (SELECT id, parent_id, series_id FROM job WHERE tenant_id = :tenant_id AND id = u.parent_id OFFSET 0) j
    WHERE u.parent_id IS NOT NULL AND u.depth < 100
)
SELECT u.job_id, u.id AS run_id, substr(s.owner_service, 5) AS app
FROM up u JOIN series s ON s.tenant_id = :tenant_id AND s.id = u.series_id
WHERE u.parent_id IS NULL AND s.task_type = 'flow' AND s.owner_service LIKE 'app/%';


-- name: states(tenant_id, run_ids, paths)
-- Returns the states of requests now, and their units: the number at a path of the result, whose steps are separated by U+001F, or
-- one if the path is null. Indexes: primary keys.
SELECT v.id AS run_id, v.user_id, (v.created_at AT TIME ZONE t.time_zone)::date AS day, v.created_at, v.started_at, v.finished_at,
       CASE WHEN v.status IN ('completed', 'failed', 'cancelled') THEN v.status ELSE 'open' END AS status, v.error_category,
       CASE WHEN v.status <> 'completed' THEN 0 WHEN w.path IS NULL THEN 1
            ELSE app_units(v.result, string_to_array(w.path, chr(31))) END AS units
FROM tenant t
CROSS JOIN unnest(:run_ids::uuid[], :paths::text[]) AS w(run_id, path)
CROSS JOIN LATERAL (SELECT * FROM jobs WHERE tenant_id = :tenant_id AND id = w.run_id OFFSET 0) v
WHERE t.id = :tenant_id;


-- name: usage_of(tenant_id, job_ids, epochs)
-- Returns what attempts of jobs have used, as the ledger counts it: an attempt that reports no calls is one call, unless nothing
-- ran to an end. Indexes: primary keys of done and attempt.
SELECT a.job_id, a.epoch, coalesce(sum(a.calls), 0)::bigint AS calls, coalesce(sum(a.failures), 0)::bigint AS failures,
       coalesce(sum(a.prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(a.completion_tokens), 0)::bigint AS completion_tokens, coalesce(sum(a.audio_us), 0)::bigint AS audio_us,
       coalesce(sum(a.model_us), 0)::bigint AS model_us, coalesce(sum(a.cost), 0) AS cost
FROM (
    SELECT x.job_id, x.epoch, u.*
    FROM unnest(:job_ids::uuid[], :epochs::bigint[]) AS w(job_id, epoch)
    CROSS JOIN LATERAL (
        (SELECT job_id, epoch, started_at, finished_at, '' AS category, usage FROM done
         WHERE tenant_id = :tenant_id AND job_id = w.job_id AND epoch = w.epoch AND status = 'completed' OFFSET 0)
        UNION ALL
        (SELECT job_id, epoch, started_at, finished_at, category, usage FROM attempt
         WHERE tenant_id = :tenant_id AND job_id = w.job_id AND epoch = w.epoch OFFSET 0)
    ) x
    CROSS JOIN LATERAL (
        SELECT 1 AS calls, CASE WHEN x.category IN ('', 'cancelled') THEN 0 ELSE 1 END AS failures, 0::bigint AS prompt_tokens,
               0::bigint AS completion_tokens, 0::bigint AS audio_us,
               round(1e6 * date_part('epoch', x.finished_at - x.started_at))::bigint AS model_us, 0::numeric AS cost
        WHERE x.usage IS NULL AND x.category NOT IN ('worker_lost', 'shutdown')
        UNION ALL
        SELECT 1, CASE WHEN c.status = 'failed' THEN 1 ELSE 0 END, c.prompt_tokens, c.completion_tokens,
               round(c.audio_seconds * 1e6)::bigint, c.duration_us, c.cost
        FROM json_to_recordset(coalesce(x.usage, '[]'))
             AS c(status text, prompt_tokens bigint, completion_tokens bigint, audio_seconds float8, duration_us bigint,
                  cost numeric)
        WHERE c.status <> 'skipped'
    ) u
) a
GROUP BY a.job_id, a.epoch;


-- name: lock_requests(tenant_id, run_ids)
-- Locks the records of requests, in order, and returns them. Index: primary key of app_request.
SELECT * FROM app_request WHERE tenant_id = :tenant_id AND run_id = ANY (:run_ids::uuid[]) ORDER BY run_id FOR UPDATE;


-- name: store(tenant_id, run_ids, apps, user_ids, days, statuses, created_ats, started_ats, finished_ats, error_categories, units, attempts, calls, failures, prompt_tokens, completion_tokens, audio_us, model_us, costs, positions, keep_seconds)!
-- Stores records of requests, which the caller has locked. Locks: the rows, in order. Index: primary key of app_request.
INSERT INTO app_request AS a (tenant_id, run_id, app, user_id, day, status, created_at, started_at, finished_at, error_category, units,
                         attempts, calls, failures, prompt_tokens, completion_tokens, audio_us, model_us, cost, position,
                         drop_result_at)
SELECT :tenant_id, r.run_id, r.app, r.user_id, r.day, r.status, r.created_at, r.started_at, r.finished_at, r.error_category, r.units,
       r.attempts, r.calls, r.failures, r.prompt_tokens, r.completion_tokens, r.audio_us, r.model_us, r.cost, r.position,
       CASE WHEN r.status = 'completed' THEN r.finished_at + make_interval(secs => r.keep) END
FROM unnest(
    :run_ids::uuid[], :apps::text[], :user_ids::text[], :days::date[], :statuses::text[], :created_ats::timestamptz[],
    :started_ats::timestamptz[], :finished_ats::timestamptz[], :error_categories::text[], :units::numeric[], :attempts::bigint[],
    :calls::bigint[], :failures::bigint[], :prompt_tokens::bigint[], :completion_tokens::bigint[], :audio_us::bigint[],
    :model_us::bigint[], :costs::numeric[], :positions::bigint[], :keep_seconds::float8[]
) AS r(run_id, app, user_id, day, status, created_at, started_at, finished_at, error_category, units, attempts, calls, failures,
       prompt_tokens, completion_tokens, audio_us, model_us, cost, position, keep)
ORDER BY r.run_id
ON CONFLICT (tenant_id, run_id) DO UPDATE
SET status = excluded.status, started_at = excluded.started_at, finished_at = excluded.finished_at,
    error_category = excluded.error_category, units = excluded.units, attempts = excluded.attempts, calls = excluded.calls,
    failures = excluded.failures, prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
    audio_us = excluded.audio_us, model_us = excluded.model_us, cost = excluded.cost, position = excluded.position,
    untimed = a.untimed OR (a.status <> 'open' AND excluded.status = 'open'), drop_result_at = excluded.drop_result_at;


-- name: add(tenant_id, apps, user_ids, days, requests, completed, failed, cancelled, wait_us, run_us, units, attempts, calls, failures, prompt_tokens, completion_tokens, audio_us, model_us, costs, times)!
-- Adds to sums; numbers may be negative. Locks: rows of app_day, in key order. Index: primary key of app_day.
INSERT INTO app_day AS d (tenant_id, app, user_id, day, requests, completed, failed, cancelled, wait_us, run_us, units, attempts,
                          calls, failures, prompt_tokens, completion_tokens, audio_us, model_us, cost, times)
SELECT :tenant_id, r.app, r.user_id, r.day, r.requests, r.completed, r.failed, r.cancelled, r.wait_us, r.run_us, r.units, r.attempts,
       r.calls, r.failures, r.prompt_tokens, r.completion_tokens, r.audio_us, r.model_us, r.cost, r.times::integer[]
FROM unnest(
    :apps::text[], :user_ids::text[], :days::date[], :requests::bigint[], :completed::bigint[], :failed::bigint[],
    :cancelled::bigint[], :wait_us::bigint[], :run_us::bigint[], :units::numeric[], :attempts::bigint[], :calls::bigint[],
    :failures::bigint[], :prompt_tokens::bigint[], :completion_tokens::bigint[], :audio_us::bigint[], :model_us::bigint[],
    :costs::numeric[], :times::text[]
) AS r(app, user_id, day, requests, completed, failed, cancelled, wait_us, run_us, units, attempts, calls, failures, prompt_tokens,
       completion_tokens, audio_us, model_us, cost, times)
ORDER BY r.app, r.user_id, r.day
ON CONFLICT (tenant_id, app, user_id, day) DO UPDATE
SET requests = d.requests + excluded.requests, completed = d.completed + excluded.completed, failed = d.failed + excluded.failed,
    cancelled = d.cancelled + excluded.cancelled, wait_us = added(d.wait_us, excluded.wait_us),
    run_us = added(d.run_us, excluded.run_us), units = d.units + excluded.units, attempts = d.attempts + excluded.attempts,
    calls = added(d.calls, excluded.calls), failures = added(d.failures, excluded.failures),
    prompt_tokens = added(d.prompt_tokens, excluded.prompt_tokens),
    completion_tokens = added(d.completion_tokens, excluded.completion_tokens), audio_us = added(d.audio_us, excluded.audio_us),
    model_us = added(d.model_us, excluded.model_us), cost = d.cost + excluded.cost,
    times = app_times_added(d.times, excluded.times);


-- name: advance(tenant_id, position)!
-- Moves a tenant's cursor, which the caller has locked.
UPDATE app_cursor SET position = :position::bigint WHERE tenant_id = :tenant_id;


-- name: drop_from_default(before, limit)
-- tenant: every (maintenance; rows of all tenants are old)
-- Removes some old records from the default partition; returns how many. Index: primary key.
WITH gone AS (
    DELETE FROM app_request_default WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM app_request_default WHERE run_id < uuid_floor(:before::date::timestamp AT TIME ZONE 'UTC') LIMIT :limit::int
    )) RETURNING 1
)
SELECT count(*) FROM gone;


-- name: drop_sums(days, limit)
-- tenant: every (maintenance; rows of all tenants are old)
-- Removes some old sums by user; returns how many. Those of all users together stay. Scans app_day.
WITH gone AS (
    DELETE FROM app_day WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM app_day WHERE user_id <> '' AND day < (clock() AT TIME ZONE 'UTC')::date - :days::int LIMIT :limit::int
    )) RETURNING 1
)
SELECT count(*) FROM gone;


-- name: time_out(apps, seconds, messages, limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Requests that the oldest requests which have taken longer than their app allows end, with the message of the app; returns the runs,
-- with their queues if they were woken, and how many were too old. Each is requested once. Locks: rows of app_request, skipping locked
-- ones; then gates. Index: app_request_timed.
WITH late AS MATERIALIZED (
    SELECT r.tenant_id, r.run_id, l.message
    FROM unnest(:apps::text[], :seconds::float8[], :messages::text[]) AS l(app, seconds, message)
    CROSS JOIN LATERAL (
        SELECT tenant_id, run_id FROM app_request
        WHERE app = l.app AND status = 'open' AND NOT untimed AND created_at <= clock() - make_interval(secs => l.seconds)
        ORDER BY created_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
    ) r
), marked AS (
    UPDATE app_request a SET untimed = true FROM late l
    WHERE a.tenant_id = l.tenant_id AND a.run_id = l.run_id
)
SELECT g.tenant_id, d.run_id AS mailed, d.woken, (SELECT count(*) FROM late) AS found
FROM (
    SELECT tenant_id, array_agg(run_id ORDER BY run_id) AS run_ids, array_agg(message ORDER BY run_id) AS messages
    FROM late GROUP BY tenant_id ORDER BY tenant_id
) g
LEFT JOIN LATERAL flow_cancel(g.tenant_id, g.run_ids, 'timeout', g.messages) d ON true;


-- name: drop_results(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Removes the results of some completed requests whose app keeps them no longer; returns how many. The jobs stay completed, with the
-- result null. Locks: rows of app_request, skipping locked ones; then of done. Indexes: app_request_drop; primary key of done.
WITH due AS MATERIALIZED (
    SELECT tenant_id, run_id FROM app_request WHERE drop_result_at <= clock()
    ORDER BY drop_result_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE app_request a SET drop_result_at = NULL FROM due d WHERE a.tenant_id = d.tenant_id AND a.run_id = d.run_id
), dropped AS (
    UPDATE done o SET result = 'null' FROM due d
    WHERE o.tenant_id = d.tenant_id AND o.job_id = d.run_id AND o.status = 'completed'
)
SELECT count(*) FROM due;
