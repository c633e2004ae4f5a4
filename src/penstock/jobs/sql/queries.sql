-- The statements that change jobs. A job changes state by one of these, which also writes its counters and its event.
--
-- Rules for all statements: each one names its tenant; multi-row statements lock in job id order (or skip locked rows); the
-- time is clock(), the database's. Tables that may be large are read row by row through the index that the statement names,
-- whatever size the planner estimates: LATERAL with OFFSET 0 or FOR UPDATE is never turned into a join (tests/db/test_plans.py).


-- name: create(tenant_id, ids, series_ids, lane_ids, submitter_ids, owner_refs, user_ids, inputs, input_sizes, max_attempts, timeouts, run_ats, keys, tags, concurrency_keys)
-- Inserts jobs, in the order given. Tags of one job are joined by chr(31). Jobs with a concurrency key are blocked if their
-- queue has a rule; also returns whether any is. Takes no lock that another transaction could hold.
WITH submitted AS MATERIALIZED (
    SELECT s.*, coalesce(s.run_at > clock(), false) AS is_later,
           s.concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = s.lane_id OFFSET 0) AS is_limited
    FROM unnest(:ids::uuid[], :series_ids::int[], :lane_ids::int[], :submitter_ids::int[], :owner_refs::text[],
                :user_ids::text[], :inputs::json[], :input_sizes::int[], :max_attempts::smallint[], :timeouts::float8[],
                :run_ats::timestamptz[], :keys::text[], :tags::text[], :concurrency_keys::text[])
        AS s(id, series_id, lane_id, submitter_id, owner_ref, user_id, input, input_bytes, max_attempts, timeout_seconds,
             run_at, key, tags, concurrency_key)
), kept AS (
    INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts,
                     timeout_seconds, run_at, idempotency_key, tags, concurrency_key, created_at)
    SELECT :tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts, timeout_seconds,
           run_at, key, string_to_array(tags, chr(31)), concurrency_key, clock()
    FROM submitted
), queued AS (
    INSERT INTO ready (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                       concurrency_key)
    SELECT :tenant_id, id, lane_id, series_id, max_attempts, submitter_id, input_bytes, clock(), concurrency_key
    FROM submitted WHERE NOT is_later AND NOT is_limited
), scheduled AS (
    INSERT INTO later (tenant_id, job_id, run_at, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                       concurrency_key)
    SELECT :tenant_id, id, CASE WHEN is_later THEN run_at END, lane_id, series_id, max_attempts, submitter_id, input_bytes,
           clock(), concurrency_key
    FROM submitted WHERE is_later OR is_limited
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, pending)
    SELECT :tenant_id, series_id, count(*) FROM submitted GROUP BY series_id
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids)
    SELECT :tenant_id, clock(), 'job.created', array_agg(id), array_agg(series_id) FROM submitted
)
SELECT clock() AS created_at, EXISTS (SELECT FROM submitted WHERE is_limited AND NOT is_later) AS blocked;


-- name: open_gates(tenant_id, run_ids, series_ids, lane_ids, submitter_ids, input_sizes, max_attempts, concurrency_keys)!
-- Inserts the gates of new runs of flows, in the transaction that creates them. Takes no lock that another transaction could hold.
INSERT INTO flow_gate (tenant_id, run_id, series_id, lane_id, submitter_id, input_bytes, max_attempts, first_position,
                       enqueued_at, concurrency_key)
SELECT :tenant_id, g.run_id, g.series_id, g.lane_id, g.submitter_id, g.input_bytes, g.max_attempts, p.position, clock(),
       g.concurrency_key
FROM unnest(:run_ids::uuid[], :series_ids::int[], :lane_ids::int[], :submitter_ids::int[], :input_sizes::int[],
            :max_attempts::smallint[], :concurrency_keys::text[])
     AS g(run_id, series_id, lane_id, submitter_id, input_bytes, max_attempts, concurrency_key)
CROSS JOIN (SELECT flow_position(:tenant_id) AS position OFFSET 0) p;


-- name: ready_queues(task_types, from_start)
-- tenant: every (it wakes claims of this process, which filter by tenant)
-- Returns the queues that have ready jobs. An empty list means any type. The search begins at the hints of lanes, or at the very
-- start. Indexes: lane_queue; primary key of ready.
SELECT DISTINCT n.tenant_id, n.task_type, n.model_profile
FROM (
    SELECT id, tenant_id, task_type, model_profile, low_seq FROM lane
    WHERE cardinality(:task_types::text[]) = 0 OR task_type = ANY (:task_types::text[]) OFFSET 0
) n
WHERE EXISTS (SELECT FROM ready WHERE lane_id = n.id AND seq >= CASE WHEN :from_start::bool THEN 0 ELSE n.low_seq END OFFSET 0);


-- name: claim(only_tenant, tenant_names, worker_id, task_types, model_profiles, limit, lease_seconds, turn_tenants, turn_quanta, cursor_lanes, cursor_seqs, from_start)
-- tenant: every (workers serve all tenants; rows keep theirs)
-- Leases at most limit ready jobs of all tenants, or of only_tenant if it is not null, and of those in tenant_names if that is not. The tenants take turns: first those
-- that are not in turn_tenants, in random order, then those that are, in the order given. Each gives at most its quantum (with
-- 0 it is not searched at all); one that is not in the list gives an equal share of the limit. Within a tenant, jobs of the highest priority come first, in
-- order within a lane; lanes of equal priority take turns. Jobs of a tenant with limits are picked by pick_within_limits().
-- Paused queues and tenants, and suspended tenants, give none.
-- The jobs are returned in no order, because sorting them would copy their inputs.
-- An empty list of types or profiles means any, but runs of flows are only claimed by their type. The cursors are the points at which this process last stopped in each lane;
-- the search begins there or at the lane's hint, whichever is further, or at the very start if from_start is set.
-- Locks: the ready rows taken, skipping locked ones; for tenants with limits, those of pick_within_limits(). Index: lane_queue or unique index of lane; primary key of ready, from
-- (lane, low_seq); tenant_suspended.
WITH waiting AS MATERIALIZED ( -- full joins, because they are always hash joins
    SELECT tenant_id, min(turn) AS turn, min(quantum) AS quantum, array_agg(id ORDER BY priority DESC, lot) AS lane_ids,
           array_agg(low_seq ORDER BY priority DESC, lot) AS low_seqs
    FROM (
        SELECT l.tenant_id, l.id, l.priority, random() AS lot, p.turn, p.quantum,
               CASE WHEN :from_start::bool THEN 0 ELSE greatest(l.low_seq, c.seq) END AS low_seq
        FROM (
            SELECT tenant_id, id, priority, low_seq FROM lane l
            WHERE (:only_tenant::int IS NULL OR tenant_id = :only_tenant::int)
              AND (:tenant_names::text[] IS NULL
                   OR tenant_id = ANY (ARRAY(SELECT id FROM tenant WHERE name = ANY (:tenant_names::text[]))))
              AND CASE WHEN cardinality(:task_types::text[]) = 0 THEN task_type <> 'flow'
                       ELSE task_type = ANY (:task_types::text[]) END
              AND (cardinality(:model_profiles::text[]) = 0 OR model_profile = ANY (:model_profiles::text[]))
              AND ((SELECT NOT EXISTS (SELECT FROM pause)) OR NOT EXISTS (
                  SELECT FROM pause WHERE tenant_id IN (0, l.tenant_id) AND task_type IN ('', l.task_type)
                                      AND model_profile IN ('', l.model_profile) OFFSET 0))
              AND tenant_id <> ALL (ARRAY(SELECT id FROM tenant WHERE suspended_at IS NOT NULL))
        ) l
        FULL JOIN unnest(:turn_tenants::int[], :turn_quanta::int[]) WITH ORDINALITY AS p(tenant_id, quantum, turn)
               ON p.tenant_id = l.tenant_id
        FULL JOIN unnest(:cursor_lanes::int[], :cursor_seqs::bigint[]) AS c(lane_id, seq) ON c.lane_id = l.id
        OFFSET 0
    ) n
    WHERE id IS NOT NULL AND quantum IS DISTINCT FROM 0
      AND EXISTS (SELECT FROM ready WHERE lane_id = n.id AND seq >= n.low_seq OFFSET 0)
    GROUP BY tenant_id
), picked AS MATERIALIZED (
    SELECT r.row_tid
    FROM (
        SELECT tenant_id, lane_ids, low_seqs,
               coalesce(quantum, ceil(:limit::float8 / (SELECT count(*) FROM waiting)))::int AS quantum
        FROM waiting ORDER BY turn NULLS FIRST, random()
    ) t
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM run_limit WHERE tenant_id = t.tenant_id) AS limited OFFSET 0) f
    CROSS JOIN LATERAL (
        (SELECT r.row_tid
         FROM unnest(t.lane_ids, t.low_seqs) AS n(lane_id, low_seq)
         CROSS JOIN LATERAL (
             SELECT ctid AS row_tid FROM ready
             WHERE lane_id = n.lane_id AND seq >= n.low_seq AND tenant_id = t.tenant_id
             ORDER BY seq LIMIT t.quantum FOR UPDATE SKIP LOCKED
         ) r
         WHERE NOT f.limited LIMIT t.quantum)
        UNION ALL
        (SELECT p.row_tid FROM pick_within_limits(t.tenant_id, t.lane_ids, t.low_seqs, t.quantum) AS p(row_tid)
         WHERE f.limited)
    ) r
    LIMIT :limit::int
), taken AS (
    DELETE FROM ready WHERE ctid = ANY (ARRAY(SELECT row_tid FROM picked)) RETURNING *
), leased AS (
    INSERT INTO lease (tenant_id, job_id, epoch, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id,
                       input_bytes, enqueued_at, started_at, lease_until, lease_seconds, worker_id, concurrency_key,
                       parent_id, step_no)
    SELECT tenant_id, job_id, nextval('epoch'), lane_id, series_id, attempt + 1, failures, losses, max_attempts,
           submitter_id, input_bytes, enqueued_at, clock(), clock() + make_interval(secs => :lease_seconds), :lease_seconds,
           :worker_id, concurrency_key, parent_id, step_no
    FROM (SELECT t.* FROM taken t JOIN lane n ON n.id = t.lane_id ORDER BY n.priority DESC, t.seq) t
    RETURNING tenant_id, job_id, epoch, lane_id, series_id, attempt, lease_until
), reached AS MATERIALIZED (
    SELECT t.lane_id, t.reached_seq, n.priority, o.weight
    FROM (SELECT lane_id, max(seq) AS reached_seq FROM taken GROUP BY lane_id) t
    JOIN lane n ON n.id = t.lane_id
    JOIN tenant o ON o.id = n.tenant_id
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, pending, running)
    SELECT tenant_id, series_id, -count(*), count(*) FROM leased GROUP BY tenant_id, series_id
), owned AS MATERIALIZED (
    SELECT tenant_id, array_agg(job_id) AS job_ids, array_agg(series_id) AS series_ids, array_agg(epoch) AS epochs,
           array_agg(attempt) AS attempts, array_agg(job_id ORDER BY job_id) AS sorted
    FROM leased GROUP BY tenant_id
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, epochs, attempts, data)
    SELECT tenant_id, clock(), 'job.started', job_ids, series_ids, epochs, attempts,
           json_build_object('worker_id', :worker_id::text)
    FROM owned WHERE NOT 'flow' = ANY (:task_types::text[])
    UNION ALL -- a run that continues after a wait does not start again
    SELECT l.tenant_id, clock(), 'job.started', array_agg(l.job_id), array_agg(l.series_id), array_agg(l.epoch),
           array_agg(l.attempt), json_build_object('worker_id', :worker_id::text)
    FROM leased l
    WHERE 'flow' = ANY (:task_types::text[])
      AND NOT EXISTS (SELECT FROM flow_gate WHERE tenant_id = l.tenant_id AND run_id = l.job_id AND turns > 0 OFFSET 0)
    GROUP BY l.tenant_id
), described AS ( -- in one pass over the index for each tenant; the bounds leave only the partitions of these days
    SELECT j.* FROM owned o
    CROSS JOIN LATERAL (
        SELECT id, owner_ref, user_id, max_attempts, timeout_seconds, created_at, tags, input FROM job
        WHERE tenant_id = o.tenant_id AND id = ANY (o.sorted) AND id >= o.sorted[1] AND id <= o.sorted[cardinality(o.sorted)]
        OFFSET 0
    ) j
)
SELECT l.tenant_id, l.weight, l.job_id, l.epoch, l.series_id, l.attempt, l.lease_until, l.lane_id, l.priority,
       l.reached_seq, j.owner_ref, j.user_id, j.max_attempts, j.timeout_seconds, j.created_at, j.tags, j.input
FROM (SELECT l.*, n.priority, n.reached_seq, n.weight FROM leased l JOIN reached n ON n.lane_id = l.lane_id) l
FULL JOIN described j ON j.id = l.job_id; -- each row has its match; a full join is always a hash join, even when few rows are expected


-- name: heartbeat(tenant_id, job_ids, epochs, lease_seconds, progress, chunks, chunks_from, chunks_to, lines, lines_from, lines_to)
-- Extends the leases whose epoch still holds, and stores progress, output and log where they are given. Chunks and lines
-- are JSON arrays, numbered within the attempt: …_from is the first number, …_to is one past the last. The lease has the
-- number of stored ones, so those sent before are skipped; a heartbeat that would leave a gap changes nothing (lease_until
-- is null). Jobs whose epoch is stale are not returned. Locks: lease rows in job id order.
WITH beat AS MATERIALIZED (
    SELECT b.*, l.chunks AS chunks_held, l.log_lines AS lines_held,
           b.chunks_from <= l.chunks AND b.lines_from <= l.log_lines AS follows
    FROM (SELECT * FROM unnest(:job_ids::uuid[], :epochs::bigint[], :lease_seconds::float8[], :progress::json[],
                               :chunks::json[], :chunks_from::int[], :chunks_to::int[],
                               :lines::json[], :lines_from::int[], :lines_to::int[])
              AS b(job_id, epoch, lease_seconds, progress, chunks, chunks_from, chunks_to, lines, lines_from, lines_to)
          ORDER BY job_id) b
    CROSS JOIN LATERAL (SELECT chunks, log_lines FROM lease
                        WHERE tenant_id = :tenant_id AND job_id = b.job_id AND epoch = b.epoch FOR UPDATE) l
), extended AS (
    UPDATE lease l
    SET lease_seconds = coalesce(b.lease_seconds, l.lease_seconds),
        lease_until = clock() + make_interval(secs => coalesce(b.lease_seconds, l.lease_seconds)),
        progress = coalesce(b.progress, l.progress),
        chunks = greatest(b.chunks_held, b.chunks_to),
        log_lines = greatest(b.lines_held, b.lines_to)
    FROM beat b
    WHERE l.tenant_id = :tenant_id AND l.job_id = ANY (ARRAY(SELECT job_id FROM beat)) AND l.job_id = b.job_id AND b.follows
    RETURNING l.job_id, l.epoch, l.series_id, l.attempt, l.lease_until, l.cancel_requested_at IS NOT NULL AS cancel_requested,
              b.progress, b.chunks, b.chunks_from, b.chunks_to, b.chunks_held, b.lines, b.lines_from, b.lines_to, b.lines_held
), reported AS (
    SELECT x.*, n.* FROM extended x CROSS JOIN LATERAL (
        SELECT 'job.progress' AS kind, NULL::int AS first, x.progress AS data WHERE x.progress IS NOT NULL
        UNION ALL
        SELECT 'job.log', NULL, CASE WHEN x.lines_from = x.lines_held THEN x.lines
            ELSE (SELECT json_agg(e.line ORDER BY e.ordinal) FROM json_array_elements(x.lines) WITH ORDINALITY AS e(line, ordinal)
                  WHERE e.ordinal > x.lines_held - x.lines_from) END
        WHERE x.lines_to > x.lines_held
        UNION ALL
        SELECT 'job.output', x.chunks_held, CASE WHEN x.chunks_from = x.chunks_held THEN x.chunks
            ELSE (SELECT json_agg(e.chunk ORDER BY e.ordinal) FROM json_array_elements(x.chunks) WITH ORDINALITY AS e(chunk, ordinal)
                  WHERE e.ordinal > x.chunks_held - x.chunks_from) END
        WHERE x.chunks_to > x.chunks_held
    ) n
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_id, series_ids, epochs, attempts, first, weight, data)
    SELECT :tenant_id, clock(), kind, job_id, ARRAY[series_id], ARRAY[epoch], ARRAY[attempt], first,
           octet_length(data::text), data
    FROM reported
)
SELECT b.job_id, b.epoch, x.lease_until, x.cancel_requested, b.chunks_held, b.lines_held
FROM beat b LEFT JOIN extended x ON x.job_id = b.job_id;


-- name: complete(tenant_id, job_ids, epochs, results, sizes, usages)
-- Stores results and usage for leases whose epoch still holds; stale ones are not returned. limited_key is the job's concurrency
-- key if its queue has a rule; the job has held a place of it. Locks: lease rows in job id order.
WITH handed AS MATERIALIZED (
    SELECT l.job_id, h.result, h.size, h.usage
    FROM (SELECT * FROM unnest(:job_ids::uuid[], :epochs::bigint[], :results::json[], :sizes::int[], :usages::json[])
              AS h(job_id, epoch, result, size, usage)
          ORDER BY job_id) h
    CROSS JOIN LATERAL (SELECT job_id FROM lease
                        WHERE tenant_id = :tenant_id AND job_id = h.job_id AND epoch = h.epoch FOR UPDATE) l
), taken AS (
    DELETE FROM lease WHERE tenant_id = :tenant_id AND job_id = ANY (ARRAY(SELECT job_id FROM handed))
    RETURNING job_id, epoch, lane_id, series_id, attempt, submitter_id, input_bytes, enqueued_at, started_at,
              cancel_requested_at, worker_id, progress, concurrency_key, parent_id, step_no
), ended AS (
    SELECT t.*, h.result, h.size, h.usage FROM taken t JOIN handed h ON h.job_id = t.job_id
), kept AS (
    INSERT INTO done (tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, finished_at,
                      cancel_requested_at, status, worker_id, progress, result, usage)
    SELECT :tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, clock(),
           cancel_requested_at, 'completed', worker_id, progress, result, usage
    FROM ended
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, running, completed)
    SELECT :tenant_id, series_id, -count(*), count(*) FROM ended GROUP BY series_id
), metered AS ( -- an attempt that reports no calls is one call
    INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, attempts, calls, unpriced, model_us, bytes_in, bytes_out)
    SELECT :tenant_id, clock(), series_id, submitter_id, count(*), count(*) FILTER (WHERE usage IS NULL),
           count(*) FILTER (WHERE usage IS NULL),
           round(coalesce(1e6 * sum(date_part('epoch', clock() - started_at)) FILTER (WHERE usage IS NULL), 0))::bigint,
           sum(input_bytes), sum(size)
    FROM ended GROUP BY series_id, submitter_id
), metered_calls AS (
    INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, provider, model, version, price, calls, failures, unpriced,
                             prompt_tokens, completion_tokens, audio_us, model_us, cost)
    SELECT :tenant_id, clock(), e.series_id, e.submitter_id, u.provider, u.model, u.version, u.price, count(*),
           count(*) FILTER (WHERE u.status = 'failed'), count(*) FILTER (WHERE u.price = ''), sum(u.prompt_tokens),
           sum(u.completion_tokens), sum(round(u.audio_seconds * 1e6)::bigint), sum(u.duration_us), sum(u.cost)
    FROM (SELECT series_id, submitter_id, usage FROM ended WHERE usage IS NOT NULL OFFSET 0) e
    CROSS JOIN LATERAL json_to_recordset(e.usage)
         AS u(provider text, model text, version text, price text, status text, prompt_tokens bigint,
              completion_tokens bigint, audio_seconds float8, duration_us bigint, cost numeric)
    WHERE u.status <> 'skipped' GROUP BY e.series_id, e.submitter_id, u.provider, u.model, u.version, u.price
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, epochs, attempts)
    SELECT :tenant_id, clock(), 'job.completed', array_agg(job_id), array_agg(series_id), array_agg(epoch), array_agg(attempt)
    FROM ended HAVING count(*) > 0
), mailed AS MATERIALIZED (
    SELECT d.* FROM (
        SELECT array_agg(ROW(parent_id, 'ended', step_no, '', 'completed', job_id, CASE WHEN size <= 8192 AND step_no >= 0 THEN result END,
                             NULL, NULL, NULL)::flow_letter) AS letters
        FROM ended WHERE parent_id IS NOT NULL HAVING count(*) > 0
    ) e CROSS JOIN LATERAL flow_deliver(:tenant_id, e.letters) d
)
SELECT job_id, epoch, (SELECT EXISTS (SELECT FROM run_limit WHERE tenant_id = :tenant_id)) AS limited,
       (SELECT array_agg(run_id) FROM mailed) AS mailed, (SELECT array_agg(woken) FROM mailed) AS woken, lane_id,
       CASE WHEN concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = ended.lane_id OFFSET 0)
            THEN concurrency_key END AS limited_key
FROM ended;


-- name: find_finished(tenant_id, job_ids)
-- Returns those of the jobs that exist, and how each ended if it has. Index: primary keys.
SELECT j.id AS job_id, d.epoch, d.status
FROM unnest(:job_ids::uuid[]) AS w(job_id)
CROSS JOIN LATERAL (SELECT id FROM job WHERE tenant_id = :tenant_id AND id = w.job_id OFFSET 0) j
LEFT JOIN LATERAL (SELECT epoch, status FROM done WHERE tenant_id = :tenant_id AND job_id = w.job_id OFFSET 0) d ON true;


-- name: lock_leases(tenant_id, job_ids, epochs)
-- Locks the leases whose epoch still holds, in job id order, and returns what the rules need to decide how they end.
SELECT l.job_id, l.epoch, l.attempt, l.failures, l.losses, l.max_attempts, l.cancel_requested_at IS NOT NULL AS cancel_requested,
       EXISTS (SELECT FROM flow_gate WHERE tenant_id = :tenant_id AND run_id = l.job_id) AS is_run
FROM (SELECT * FROM unnest(:job_ids::uuid[], :epochs::bigint[]) AS f(job_id, epoch) ORDER BY job_id) f
CROSS JOIN LATERAL (SELECT * FROM lease
                    WHERE tenant_id = :tenant_id AND job_id = f.job_id AND epoch = f.epoch FOR UPDATE) l;


-- name: end_attempts(tenant_id, job_ids, statuses, delays, failures, losses, categories, messages, usages)
-- Ends attempts without a result, as the rules decided: a job with status pending returns to its queue (now, or after the
-- delay in seconds), one with failed or cancelled has finished. A job that has a limited key is blocked instead of ready; it no
-- longer holds a place in any case. The leases are locked by the caller's transaction.
WITH verdict AS MATERIALIZED (
    SELECT * FROM unnest(:job_ids::uuid[], :statuses::text[], :delays::float8[], :failures::smallint[], :losses::smallint[],
                         :categories::text[], :messages::text[], :usages::json[])
        AS v(job_id, status, delay, failures, losses, category, message, usage)
), ended AS (
    DELETE FROM lease l USING verdict v
    WHERE l.tenant_id = :tenant_id AND l.job_id = ANY (:job_ids::uuid[]) AND l.job_id = v.job_id
    RETURNING l.job_id, l.epoch, l.lane_id, l.series_id, l.attempt, v.failures, v.losses, l.max_attempts, l.submitter_id,
              l.input_bytes, l.enqueued_at, l.started_at, l.cancel_requested_at, l.worker_id, l.progress, l.concurrency_key,
              l.parent_id, l.step_no, v.status, v.category, v.message, v.usage,
              CASE WHEN v.delay > 0 THEN clock() + make_interval(secs => v.delay) END AS run_at,
              CASE WHEN l.concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = l.lane_id OFFSET 0)
                   THEN l.concurrency_key END AS limited_key
), logged AS (
    INSERT INTO attempt (tenant_id, job_id, epoch, attempt, enqueued_at, started_at, finished_at, worker_id, category, message,
                         usage)
    SELECT :tenant_id, job_id, epoch, attempt, enqueued_at, started_at, clock(), worker_id, category, message, usage
    FROM ended
), queued AS (
    INSERT INTO ready (tenant_id, job_id, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id,
                       input_bytes, enqueued_at, concurrency_key, parent_id, step_no)
    SELECT :tenant_id, job_id, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes, clock(),
           concurrency_key, parent_id, step_no
    FROM ended WHERE status = 'pending' AND run_at IS NULL AND limited_key IS NULL
), scheduled AS (
    INSERT INTO later (tenant_id, job_id, run_at, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id,
                       input_bytes, enqueued_at, concurrency_key, parent_id, step_no)
    SELECT :tenant_id, job_id, run_at, lane_id, series_id, attempt, failures, losses, max_attempts, submitter_id, input_bytes,
           clock(), concurrency_key, parent_id, step_no
    FROM ended WHERE status = 'pending' AND (run_at IS NOT NULL OR limited_key IS NOT NULL)
), kept AS (
    INSERT INTO done (tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, finished_at,
                      cancel_requested_at, status, worker_id, error_category, error_message, progress)
    SELECT :tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, clock(),
           cancel_requested_at, status, worker_id, category, message, progress
    FROM ended WHERE status <> 'pending'
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, running, pending, failed, cancelled, errors, category)
    SELECT :tenant_id, series_id, -count(*), count(*) FILTER (WHERE status = 'pending'),
           count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled'), count(*), category
    FROM ended GROUP BY series_id, category
), metered AS ( -- an attempt that reports no calls is one call, unless nothing ran to an end
    INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, attempts, calls, failures, unreported, unpriced, model_us,
                             bytes_in)
    SELECT :tenant_id, clock(), series_id, submitter_id, count(*), count(*) FILTER (WHERE plain),
           count(*) FILTER (WHERE plain AND category <> 'cancelled'),
           count(*) FILTER (WHERE usage IS NULL AND category = 'worker_lost'), count(*) FILTER (WHERE plain),
           round(coalesce(1e6 * sum(date_part('epoch', clock() - started_at)) FILTER (WHERE plain), 0))::bigint,
           sum(input_bytes)
    FROM (SELECT *, usage IS NULL AND category NOT IN ('worker_lost', 'shutdown') AS plain FROM ended) e
    GROUP BY series_id, submitter_id
), metered_calls AS (
    INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, provider, model, version, price, calls, failures, unpriced,
                             prompt_tokens, completion_tokens, audio_us, model_us, cost)
    SELECT :tenant_id, clock(), e.series_id, e.submitter_id, u.provider, u.model, u.version, u.price, count(*),
           count(*) FILTER (WHERE u.status = 'failed'), count(*) FILTER (WHERE u.price = ''), sum(u.prompt_tokens),
           sum(u.completion_tokens), sum(round(u.audio_seconds * 1e6)::bigint), sum(u.duration_us), sum(u.cost)
    FROM (SELECT series_id, submitter_id, usage FROM ended WHERE usage IS NOT NULL OFFSET 0) e
    CROSS JOIN LATERAL json_to_recordset(e.usage)
         AS u(provider text, model text, version text, price text, status text, prompt_tokens bigint,
              completion_tokens bigint, audio_seconds float8, duration_us bigint, cost numeric)
    WHERE u.status <> 'skipped' GROUP BY e.series_id, e.submitter_id, u.provider, u.model, u.version, u.price
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, epochs, attempts, data)
    SELECT :tenant_id, clock(), CASE status WHEN 'pending' THEN 'job.retrying' ELSE 'job.' || status END,
           array_agg(job_id), array_agg(series_id), array_agg(epoch), array_agg(attempt),
           json_agg(json_build_object('category', category, 'message', message, 'run_at', run_at))
    FROM ended GROUP BY status
), mailed AS MATERIALIZED (
    SELECT d.* FROM (
        SELECT array_agg(ROW(parent_id, 'ended', step_no, '', status, job_id, NULL, category, message, NULL)::flow_letter)
                   FILTER (WHERE parent_id IS NOT NULL) AS letters,
               array_agg(job_id) AS job_ids
        FROM ended WHERE status <> 'pending' HAVING count(*) > 0
    ) e CROSS JOIN LATERAL flow_ended(:tenant_id, e.job_ids, e.letters) d
)
SELECT e.job_id, e.epoch, e.status, e.run_at, s.task_type, s.model_profile, e.lane_id, e.limited_key,
       (SELECT EXISTS (SELECT FROM run_limit WHERE tenant_id = :tenant_id)) AS limited,
       (SELECT array_agg(run_id) FROM mailed) AS mailed, (SELECT array_agg(woken) FROM mailed) AS woken
FROM ended e JOIN series s ON s.tenant_id = :tenant_id AND s.id = e.series_id;


-- name: cancel(tenant_id, job_ids)
-- Cancels pending jobs at once and requests that running ones stop. Jobs in neither state are not returned. A run of a flow that
-- has begun gets the request as mail, which its code handles. limited_key is the concurrency key of a job that was ready, if its
-- queue has a rule; the job has held a place of it. Locks: ready, later and lease rows, each in job id order, then gates;
-- waits for a claim that is taking one of them.
WITH named AS MATERIALIZED (
    SELECT w.job_id, g.begun
    FROM (SELECT DISTINCT job_id FROM unnest(:job_ids::uuid[]) AS w(job_id) ORDER BY job_id) w
    LEFT JOIN LATERAL (
        SELECT turns > 0 OR hold IS NOT NULL
               OR EXISTS (SELECT FROM lease WHERE tenant_id = :tenant_id AND job_id = w.job_id OFFSET 0) AS begun
        FROM flow_gate WHERE tenant_id = :tenant_id AND run_id = w.job_id OFFSET 0
    ) g ON true
), wanted AS MATERIALIZED (
    SELECT job_id FROM named WHERE begun IS NOT TRUE ORDER BY job_id
), held_ready AS MATERIALIZED (
    SELECT r.row_tid FROM wanted w
    CROSS JOIN LATERAL (SELECT ctid AS row_tid FROM ready WHERE tenant_id = :tenant_id AND job_id = w.job_id FOR UPDATE) r
), held_later AS MATERIALIZED (
    SELECT l.row_tid FROM wanted w
    CROSS JOIN LATERAL (SELECT ctid AS row_tid FROM later WHERE tenant_id = :tenant_id AND job_id = w.job_id FOR UPDATE) l
), held_lease AS MATERIALIZED (
    SELECT l.job_id, l.cancel_requested_at FROM (SELECT job_id FROM named WHERE begun IS NULL ORDER BY job_id) w
    CROSS JOIN LATERAL (SELECT * FROM lease WHERE tenant_id = :tenant_id AND job_id = w.job_id FOR UPDATE) l
), from_ready AS (
    DELETE FROM ready WHERE ctid = ANY (ARRAY(SELECT row_tid FROM held_ready)) AND tenant_id = :tenant_id
    RETURNING job_id, series_id, attempt, enqueued_at, parent_id, step_no, lane_id, concurrency_key
), from_later AS (
    DELETE FROM later WHERE ctid = ANY (ARRAY(SELECT row_tid FROM held_later)) AND tenant_id = :tenant_id
    RETURNING job_id, series_id, attempt, enqueued_at, parent_id, step_no, lane_id, NULL AS concurrency_key
), gone AS (
    SELECT * FROM from_ready UNION ALL SELECT * FROM from_later
), kept AS (
    INSERT INTO done (tenant_id, job_id, series_id, attempt, enqueued_at, finished_at, cancel_requested_at, status)
    SELECT :tenant_id, job_id, series_id, attempt, enqueued_at, clock(), clock(), 'cancelled' FROM gone
), requested AS (
    UPDATE lease l SET cancel_requested_at = clock()
    FROM held_lease h
    WHERE l.tenant_id = :tenant_id AND l.job_id = ANY (ARRAY(SELECT job_id FROM held_lease)) AND l.job_id = h.job_id
      AND h.cancel_requested_at IS NULL
    RETURNING l.job_id, l.series_id, l.epoch, l.attempt
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, pending, cancelled)
    SELECT :tenant_id, series_id, -count(*), count(*) FROM gone GROUP BY series_id
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, attempts)
    SELECT :tenant_id, clock(), 'job.cancelled', array_agg(job_id), array_agg(series_id), array_agg(attempt)
    FROM gone HAVING count(*) > 0
), recorded_request AS (
    INSERT INTO event (tenant_id, at, kind, job_id, series_ids, epochs, attempts)
    SELECT :tenant_id, clock(), 'job.cancel_requested', job_id, ARRAY[series_id], ARRAY[epoch], ARRAY[attempt] FROM requested
), mailed AS MATERIALIZED (
    SELECT d.* FROM (
        SELECT array_agg(ROW(parent_id, 'ended', step_no, '', 'cancelled', job_id, NULL, 'cancelled', 'cancelled on request',
                             NULL)::flow_letter) FILTER (WHERE parent_id IS NOT NULL) AS letters,
               array_agg(job_id) AS job_ids
        FROM gone HAVING count(*) > 0
    ) e CROSS JOIN LATERAL flow_ended(:tenant_id, e.job_ids, e.letters) d
), asked AS MATERIALIZED (
    SELECT d.* FROM (SELECT array_agg(job_id ORDER BY job_id) AS run_ids FROM named WHERE begun HAVING count(*) > 0) r
    CROSS JOIN LATERAL flow_cancel(:tenant_id, r.run_ids) d
), hints AS MATERIALIZED (
    SELECT run_id, woken FROM mailed UNION ALL SELECT run_id, woken FROM asked
)
SELECT c.*, (SELECT array_agg(run_id) FROM hints) AS mailed, (SELECT array_agg(woken) FROM hints) AS woken
FROM (
    SELECT job_id, 'cancelled' AS status, lane_id,
           CASE WHEN concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = gone.lane_id OFFSET 0)
                THEN concurrency_key END AS limited_key
    FROM gone
    UNION ALL
    SELECT job_id, 'running', NULL, NULL FROM held_lease
    UNION ALL
    SELECT run_id, 'waiting', NULL, NULL FROM asked
) c;


-- name: retry(tenant_id, job_ids)
-- Returns failed and running jobs to pending, with all their attempts available again. Running ones lose their lease.
-- Jobs in neither state are not returned, nor are runs of flows, and failed jobs whose run has not ended: its history has their
-- failure. Those that have a limited key are blocked; a running one no longer holds a place. Locks: done and lease rows, each in
-- job id order.
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT job_id FROM unnest(:job_ids::uuid[]) AS w(job_id) ORDER BY job_id
), plain AS MATERIALIZED (
    SELECT w.job_id, j.parent_id FROM wanted w
    CROSS JOIN LATERAL (SELECT series_id, parent_id FROM job WHERE tenant_id = :tenant_id AND id = w.job_id OFFSET 0) j
    WHERE NOT EXISTS (SELECT FROM series WHERE tenant_id = :tenant_id AND id = j.series_id AND task_type = 'flow' OFFSET 0)
    ORDER BY w.job_id
), held_done AS MATERIALIZED (
    SELECT d.job_id FROM plain p
    CROSS JOIN LATERAL (SELECT job_id FROM done WHERE tenant_id = :tenant_id AND job_id = p.job_id AND status = 'failed'
                        FOR UPDATE) d
    WHERE p.parent_id IS NULL
       OR NOT EXISTS (SELECT FROM flow_gate WHERE tenant_id = :tenant_id AND run_id = p.parent_id OFFSET 0)
), held_lease AS MATERIALIZED (
    SELECT l.job_id FROM plain w
    CROSS JOIN LATERAL (SELECT job_id FROM lease WHERE tenant_id = :tenant_id AND job_id = w.job_id FOR UPDATE) l
), from_done AS (
    DELETE FROM done WHERE tenant_id = :tenant_id AND job_id = ANY (ARRAY(SELECT job_id FROM held_done))
    RETURNING job_id, series_id, attempt
), from_lease AS (
    DELETE FROM lease WHERE tenant_id = :tenant_id AND job_id = ANY (ARRAY(SELECT job_id FROM held_lease)) RETURNING *
), logged AS (
    INSERT INTO attempt (tenant_id, job_id, epoch, attempt, enqueued_at, started_at, finished_at, worker_id, category, message)
    SELECT :tenant_id, job_id, epoch, attempt, enqueued_at, started_at, clock(), worker_id, 'worker_lost',
           'the lease was taken away by a retry'
    FROM from_lease
), again AS (
    SELECT job_id, series_id, attempt, NULL::uuid AS parent_id, NULL::int AS step_no FROM from_done
    UNION ALL SELECT job_id, series_id, attempt, parent_id, step_no FROM from_lease
), described AS MATERIALIZED (
    SELECT a.job_id, j.lane_id, a.series_id, a.attempt, j.max_attempts, j.submitter_id, j.input_bytes, j.concurrency_key,
           a.parent_id, a.step_no,
           CASE WHEN j.concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = j.lane_id OFFSET 0)
                THEN j.concurrency_key END AS limited_key
    FROM again a
    CROSS JOIN LATERAL (SELECT lane_id, max_attempts, submitter_id, octet_length(input::text) AS input_bytes, concurrency_key
                        FROM job WHERE tenant_id = :tenant_id AND id = a.job_id OFFSET 0) j
), queued AS (
    INSERT INTO ready (tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, enqueued_at,
                       concurrency_key, parent_id, step_no)
    SELECT :tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, clock(), concurrency_key,
           parent_id, step_no
    FROM described WHERE limited_key IS NULL ORDER BY job_id
), blocked AS (
    INSERT INTO later (tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, enqueued_at,
                       concurrency_key, parent_id, step_no)
    SELECT :tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, clock(), concurrency_key,
           parent_id, step_no
    FROM described WHERE limited_key IS NOT NULL
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, pending, failed, running)
    SELECT :tenant_id, series_id, sum(pending), sum(failed), sum(running)
    FROM (SELECT series_id, count(*) AS pending, -count(*) AS failed, 0 AS running FROM from_done GROUP BY series_id
          UNION ALL SELECT series_id, count(*), 0, -count(*) FROM from_lease GROUP BY series_id) moved
    GROUP BY series_id
), counted_lost AS (
    INSERT INTO stat_delta (tenant_id, series_id, errors, category)
    SELECT :tenant_id, series_id, count(*), 'worker_lost' FROM from_lease GROUP BY series_id
), metered AS (
    INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, attempts, unreported, bytes_in)
    SELECT :tenant_id, clock(), series_id, submitter_id, count(*), count(*), sum(input_bytes)
    FROM from_lease GROUP BY series_id, submitter_id
), recorded AS (
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, attempts)
    SELECT :tenant_id, clock(), 'job.retried', array_agg(job_id), array_agg(series_id), array_agg(attempt)
    FROM again HAVING count(*) > 0
)
SELECT d.job_id, s.task_type, s.model_profile, d.lane_id, d.limited_key
FROM described d JOIN series s ON s.tenant_id = :tenant_id AND s.id = d.series_id;
