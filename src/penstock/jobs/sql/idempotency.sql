-- Idempotency keys. See queries.sql for the rules of all statements.


-- name: reserve(tenant_id, owner_services, keys, job_ids)
-- Takes idempotency keys for new jobs; a key that is taken already is not returned. Waits for a transaction that is
-- taking the same key at the moment. Locks: primary key of idempotency, in key order.
INSERT INTO idempotency (tenant_id, owner_service, key, job_id)
SELECT :tenant_id, k.owner_service, k.key, k.job_id
FROM unnest(:owner_services::text[], :keys::text[], :job_ids::uuid[]) AS k(owner_service, key, job_id)
ORDER BY k.owner_service, k.key
ON CONFLICT DO NOTHING
RETURNING job_id;


-- name: find(tenant_id, owner_services, keys)
-- Returns the jobs that hold these keys. Index: primary key of idempotency.
SELECT i.owner_service, i.key, i.job_id
FROM unnest(:owner_services::text[], :keys::text[]) AS k(owner_service, key)
JOIN idempotency i ON i.tenant_id = :tenant_id AND i.owner_service = k.owner_service AND i.key = k.key;


-- name: release(tenant_id, owner_service, key, job_id)
-- Frees the key of a job that retention has dropped.
DELETE FROM idempotency i
WHERE i.tenant_id = :tenant_id AND i.owner_service = :owner_service AND i.key = :key AND i.job_id = :job_id
  AND NOT EXISTS (SELECT FROM job j WHERE j.tenant_id = :tenant_id AND j.id = :job_id);
