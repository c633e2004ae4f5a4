-- Concurrency keys: their rules, and the admission of blocked jobs. Loaded by penstock.jobs.sql.keys.
-- The rules at the head of queries.sql hold here too. key_rule and key_change hold few rows.


-- name: admit(lane_ids, keys, at_most)
-- tenant: every (each lane is of one tenant)
-- Admits blocked jobs of these keys, at most at_most of each, to the free places. For locks and indexes see the function.
SELECT tenant_id, task_type, model_profile, admitted, displaced FROM admit(:lane_ids::int[], :keys::text[], :at_most::int);


-- name: unsettled(lane_ids, keys)
-- tenant: every (each lane is of one tenant)
-- Returns whether jobs of one of these keys are still to be moved.
SELECT EXISTS (SELECT FROM unsettled_keys(:lane_ids::int[], :keys::text[]));


-- name: blocked_keys(after_lane, after_key, limit)
-- tenant: every (maintenance; each lane is of one tenant)
-- Returns the keys of blocked jobs, by lane, in order after one of them. Index: later_blocked, once for each key.
WITH RECURSIVE found AS (
    (
        SELECT lane_id, concurrency_key FROM later
        WHERE run_at IS NULL AND (lane_id, concurrency_key) > (:after_lane::int, :after_key::text)
        ORDER BY lane_id, concurrency_key LIMIT 1
    )
    UNION ALL
    SELECT n.lane_id, n.concurrency_key FROM found f
    CROSS JOIN LATERAL (
        SELECT lane_id, concurrency_key FROM later
        WHERE run_at IS NULL AND (lane_id, concurrency_key) > (f.lane_id, f.concurrency_key)
        ORDER BY lane_id, concurrency_key LIMIT 1
    ) n
)
SELECT lane_id, concurrency_key FROM found LIMIT :limit::int;


-- name: keyed_lanes(of_tenant, task_type, model_profile)
-- tenant: every (a rule may be for all)
-- Returns the lanes of a queue for jobs with a key, of a tenant or of all tenants (0). Index: lane_queue.
SELECT id FROM lane
WHERE task_type = :task_type AND model_profile = :model_profile AND keyed AND (:of_tenant = 0 OR tenant_id = :of_tenant)
ORDER BY id;


-- name: keys_of_lane(lane_id, after_key, limit)
-- tenant: every (a lane is of one tenant)
-- Returns the keys of ready and blocked jobs of a lane, in order after one of them. Index: ready_key, later_blocked, once
-- for each key.
WITH RECURSIVE found AS (
    SELECT least((SELECT min(concurrency_key) FROM ready WHERE lane_id = :lane_id AND concurrency_key > :after_key::text),
                 (SELECT min(concurrency_key) FROM later
                  WHERE lane_id = :lane_id AND concurrency_key > :after_key::text AND run_at IS NULL)) AS concurrency_key
    UNION ALL
    SELECT least((SELECT min(concurrency_key) FROM ready WHERE lane_id = :lane_id AND concurrency_key > f.concurrency_key),
                 (SELECT min(concurrency_key) FROM later
                  WHERE lane_id = :lane_id AND concurrency_key > f.concurrency_key AND run_at IS NULL))
    FROM found f WHERE f.concurrency_key IS NOT NULL
)
SELECT concurrency_key FROM found WHERE concurrency_key IS NOT NULL LIMIT :limit::int;


-- name: rules(for_tenant)
-- tenant: every (a rule of all tenants concerns each)
-- Returns the rules that concern a tenant, and their exceptions. Index: primary key of key_rule.
SELECT tenant_id, task_type, model_profile, concurrency_key, max_running FROM key_rule
WHERE tenant_id IN (0, :for_tenant) ORDER BY tenant_id, task_type, model_profile, concurrency_key;


-- name: set_rule(tenant_id, task_type, model_profile, max_running)!
-- Sets the rule of a queue, of a tenant or of all tenants (0). Locks: its row, so that changes of it follow each other.
INSERT INTO key_rule (tenant_id, task_type, model_profile, concurrency_key, max_running)
SELECT :tenant_id, :task_type, :model_profile, '', :max_running
ON CONFLICT (task_type, model_profile, tenant_id, concurrency_key) DO UPDATE SET max_running = excluded.max_running;


-- name: drop_rule(tenant_id, task_type, model_profile)!
-- Removes the rule of a queue and its exceptions.
DELETE FROM key_rule WHERE tenant_id = :tenant_id AND task_type = :task_type AND model_profile = :model_profile;


-- name: drop_exceptions(tenant_id, task_type, model_profile)!
-- Removes the exceptions of a rule.
DELETE FROM key_rule
WHERE tenant_id = :tenant_id AND task_type = :task_type AND model_profile = :model_profile AND concurrency_key <> '';


-- name: add_exceptions(tenant_id, task_type, model_profile, keys, maxima)!
-- Adds exceptions to a rule that has none.
INSERT INTO key_rule (tenant_id, task_type, model_profile, concurrency_key, max_running)
SELECT :tenant_id, :task_type, :model_profile, e.key, e.max_running
FROM unnest(:keys::text[], :maxima::int[]) AS e(key, max_running);


-- name: note_change(tenant_id, task_type, model_profile)
-- Records that the jobs of a queue have to be arranged by a changed rule; returns the time of the change.
INSERT INTO key_change AS c (tenant_id, task_type, model_profile, changed_at)
SELECT :tenant_id, :task_type, :model_profile, clock_timestamp()
ON CONFLICT (task_type, model_profile, tenant_id) DO UPDATE SET changed_at = clock_timestamp()
RETURNING changed_at;


-- name: changes(older_seconds)
-- tenant: every (maintenance)
-- Returns the changes that were not finished in time by the processes which made them.
SELECT tenant_id, task_type, model_profile, changed_at FROM key_change
WHERE changed_at < clock_timestamp() - make_interval(secs => :older_seconds::float8);


-- name: finish_change(tenant_id, task_type, model_profile, changed_at)!
-- Removes the note of a change, unless the rule has changed again.
DELETE FROM key_change
WHERE tenant_id = :tenant_id AND task_type = :task_type AND model_profile = :model_profile AND changed_at = :changed_at;


-- name: writers()
-- tenant: every (no row)
-- Returns the open transactions that may have written to ready or lease. Such a transaction takes the lock before its
-- snapshot.
SELECT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation IN ('ready'::regclass, 'lease'::regclass) AND mode = 'RowExclusiveLock' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
