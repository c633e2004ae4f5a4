-- Pauses, and limits of running jobs. Loaded by penstock.jobs.sql.controls.
-- The rules at the head of queries.sql hold here too. These tables hold few rows.


-- name: pause(tenant_id, task_type, model_profile)!
-- Pauses a queue, or with the names '' all queues, of a tenant or of all tenants (0). Index: primary key of pause.
INSERT INTO pause (tenant_id, task_type, model_profile, paused_at)
SELECT :tenant_id, :task_type, :model_profile, clock()
ON CONFLICT DO NOTHING;


-- name: resume(tenant_id, task_type, model_profile)
-- Ends a pause; returns when it began. Index: primary key of pause.
DELETE FROM pause WHERE tenant_id = :tenant_id AND task_type = :task_type AND model_profile = :model_profile
RETURNING paused_at;


-- name: pauses(for_tenant)
-- tenant: every (a pause of all tenants concerns each)
-- Returns the pauses that concern a tenant. Index: primary key of pause.
SELECT tenant_id, task_type, model_profile, paused_at FROM pause WHERE tenant_id IN (0, :for_tenant)
ORDER BY tenant_id, task_type, model_profile;


-- name: suspended_at(id)
-- tenant: every (the row of one)
-- Returns since when a tenant has been suspended. Index: primary key of tenant.
SELECT suspended_at FROM tenant WHERE id = :id;


-- name: queues(tenant_id)
-- Returns the queues in which a tenant ever had jobs. Index: unique index of lane.
SELECT DISTINCT task_type, model_profile FROM lane WHERE tenant_id = :tenant_id ORDER BY task_type, model_profile;


-- name: lock_tenant(id)
-- tenant: every (the row of one)
-- Locks the row of a tenant for a change of its limits; returns its weight. Locks: that row, not against new jobs.
SELECT weight FROM tenant WHERE id = :id FOR NO KEY UPDATE;


-- name: set_weight(id, weight)!
-- tenant: every (the row of one)
-- Sets the share of a tenant. Index: primary key of tenant.
UPDATE tenant SET weight = :weight::float8 WHERE id = :id;


-- name: run_limits(tenant_id)
-- Returns the limits of a tenant. Index: primary key of run_limit.
SELECT task_type, model_profile, max_running FROM run_limit WHERE tenant_id = :tenant_id ORDER BY task_type, model_profile;


-- name: drop_run_limits(tenant_id)!
-- Removes the limits of a tenant. Index: primary key of run_limit.
DELETE FROM run_limit WHERE tenant_id = :tenant_id;


-- name: add_run_limits(tenant_id, task_types, model_profiles, maxima)!
-- Sets limits of a tenant that has none. Index: primary key of run_limit.
INSERT INTO run_limit (tenant_id, task_type, model_profile, max_running)
SELECT :tenant_id, l.task_type, l.model_profile, l.max_running
FROM unnest(:task_types::text[], :model_profiles::text[], :maxima::int[]) AS l(task_type, model_profile, max_running);


-- name: has_room(tenant_id)
-- Returns whether the limits of a tenant leave room for one more job in one of its limited queues; null if it has no limits.
-- Index: primary key of run_limit; primary key of lease, once for each limit.
SELECT NOT bool_or(m.task_type = '' AND r.jobs >= m.max_running) AND bool_or(r.jobs < m.max_running)
FROM run_limit m
CROSS JOIN LATERAL (
    SELECT count(*) AS jobs FROM lease l JOIN lane n ON n.tenant_id = :tenant_id AND n.id = l.lane_id
    WHERE l.tenant_id = :tenant_id AND (m.task_type = '' OR (n.task_type = m.task_type AND n.model_profile = m.model_profile))
) r
WHERE m.tenant_id = :tenant_id;
