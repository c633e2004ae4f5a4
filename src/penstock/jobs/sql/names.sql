-- The short ids of series, lanes and submitters, and the names behind them. See queries.sql for the rules of all statements.


-- name: resolve_series(tenant_id, owner_services, task_types, model_profiles)
-- Returns the ids of (owner, queue) triples, and creates those that are missing. Locks: unique index of series, in the order given (sorted).
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(:owner_services::text[], :task_types::text[], :model_profiles::text[])
        AS w(owner_service, task_type, model_profile)
), made AS (
    INSERT INTO series (tenant_id, owner_service, task_type, model_profile)
    SELECT :tenant_id, w.owner_service, w.task_type, w.model_profile FROM wanted w
    WHERE NOT EXISTS (SELECT FROM series s WHERE s.tenant_id = :tenant_id AND s.owner_service = w.owner_service
                      AND s.task_type = w.task_type AND s.model_profile = w.model_profile)
    ON CONFLICT DO NOTHING
    RETURNING id, owner_service, task_type, model_profile
)
SELECT * FROM made
UNION ALL
SELECT s.id, s.owner_service, s.task_type, s.model_profile
FROM wanted w JOIN series s ON s.tenant_id = :tenant_id AND s.owner_service = w.owner_service
     AND s.task_type = w.task_type AND s.model_profile = w.model_profile;


-- name: resolve_submitters(tenant_id, key_ids, user_ids)
-- Returns the ids of (key, user) pairs, and creates those that are missing. Locks: unique index of submitter, in the order given (sorted).
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(:key_ids::text[], :user_ids::text[]) AS w(key_id, user_id)
), made AS (
    INSERT INTO submitter (tenant_id, key_id, user_id)
    SELECT :tenant_id, w.key_id, w.user_id FROM wanted w
    WHERE NOT EXISTS (SELECT FROM submitter s WHERE s.tenant_id = :tenant_id AND s.key_id = w.key_id AND s.user_id = w.user_id)
    ON CONFLICT DO NOTHING
    RETURNING id, key_id, user_id
)
SELECT * FROM made
UNION ALL
SELECT s.id, s.key_id, s.user_id
FROM wanted w JOIN submitter s ON s.tenant_id = :tenant_id AND s.key_id = w.key_id AND s.user_id = w.user_id;


-- name: resolve_lanes(tenant_id, task_types, model_profiles, priorities, keyed)
-- Returns the ids of (queue, priority, keyed) lanes, and creates those that are missing. Locks: unique index of lane, in the order given (sorted).
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(:task_types::text[], :model_profiles::text[], :priorities::smallint[], :keyed::bool[])
        AS w(task_type, model_profile, priority, keyed)
), made AS (
    INSERT INTO lane (tenant_id, task_type, model_profile, priority, keyed)
    SELECT :tenant_id, w.task_type, w.model_profile, w.priority, w.keyed FROM wanted w
    WHERE NOT EXISTS (SELECT FROM lane n WHERE n.tenant_id = :tenant_id AND n.task_type = w.task_type
                      AND n.model_profile = w.model_profile AND n.priority = w.priority AND n.keyed = w.keyed)
    ON CONFLICT DO NOTHING
    RETURNING id, task_type, model_profile, priority, keyed
)
SELECT * FROM made
UNION ALL
SELECT n.id, n.task_type, n.model_profile, n.priority, n.keyed
FROM wanted w JOIN lane n ON n.tenant_id = :tenant_id AND n.task_type = w.task_type
     AND n.model_profile = w.model_profile AND n.priority = w.priority AND n.keyed = w.keyed;


-- name: describe_series(tenant_id, ids)
-- Returns the owner, task type and model profile of series ids.
SELECT id, owner_service, task_type, model_profile FROM series WHERE tenant_id = :tenant_id AND id = ANY (:ids::int[]);


-- name: describe_claimed(ids)
-- tenant: every (of jobs that a claim has returned)
-- Returns the tenant's name, the owner, the task type and the model profile of series ids.
SELECT s.id, t.name AS tenant, s.owner_service, s.task_type, s.model_profile
FROM series s JOIN tenant t ON t.id = s.tenant_id WHERE s.id = ANY (:ids::int[]);
