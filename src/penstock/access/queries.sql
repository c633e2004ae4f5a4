-- Tenants, keys, tickets and the audit log. Loaded by penstock.access.store.
--
-- A statement that changes a tenant or a key first takes the row of access_generation, so changes happen one after another
-- and their numbers are in the order of their commits.

-- name: next_generation()
-- Take the number of a change; held until the transaction ends. Locks: the row. Index: primary key.
-- tenant: every (changes of all tenants are in one order)
UPDATE access_generation SET generation = generation + 1 WHERE one RETURNING generation;


-- name: state()
-- Return the number of the last change, and whether there is a key at all. Indexes: primary keys.
-- tenant: every (a gateway serves all tenants)
SELECT g.generation, EXISTS (SELECT FROM api_key) AS any_key FROM access_generation g WHERE g.one;


-- name: keys(ids)
-- Return keys by id, for checking them. Indexes: primary keys.
-- tenant: every (the key identifies the tenant)
SELECT k.id, k.tenant_id, t.name AS tenant_name, k.scopes, k.models, k.queues, k.apps, k.digest, k.secret_id,
       extract(epoch FROM k.expires_at - clock())::float8 AS expires_in, k.expires_at, k.revoked_at IS NOT NULL AS revoked,
       t.suspended_at IS NOT NULL AS suspended, g.generation
FROM access_generation g
CROSS JOIN unnest(:ids::text[]) AS wanted(id)
JOIN api_key k ON k.id = wanted.id
JOIN tenant t ON t.id = k.tenant_id
WHERE g.one;


-- name: changed_keys(after)
-- Return the ids of keys that changed after a number, or whose tenant did. Indexes: api_key_changed, tenant_changed,
-- api_key_tenant.
-- tenant: every (a gateway serves all tenants)
SELECT id FROM api_key WHERE changed > :after::bigint
UNION
SELECT k.id FROM tenant t JOIN api_key k ON k.tenant_id = t.id WHERE t.changed > :after::bigint;


-- name: used(ids)!
-- Record that keys were used. Several gateways may do so: only one writes. A key that is being changed is left out, because
-- revocations would wait behind it. Locks: the keys, in the order of their ids.
-- Index: primary key.
-- tenant: every (the gateway has identified the tenant of each)
UPDATE api_key SET last_used_at = date_trunc('minute', clock())
WHERE id IN (
    SELECT k.id FROM api_key k
    WHERE k.id = ANY (:ids::text[])
      AND (k.last_used_at IS NULL OR k.last_used_at < date_trunc('minute', clock()))
    ORDER BY k.id FOR UPDATE SKIP LOCKED
);


-- name: move(id, old_secret_id, digest, secret_id)!
-- Store the digest of a key under the new secret, unless another gateway has done so. Locks: the key. Index: primary key.
-- tenant: every (the key identifies the tenant)
UPDATE api_key SET digest = :digest, secret_id = :secret_id WHERE id = :id AND secret_id = :old_secret_id;


-- name: create_key(tenant_id, id, name, scopes, models, queues, apps, digest, secret_id, created_by, expires_at, generation)!
-- Create a key.
INSERT INTO api_key (id, tenant_id, name, scopes, models, queues, apps, digest, secret_id, created_at, created_by,
                     expires_at, changed)
SELECT :id::text, :tenant_id::integer, :name::text, :scopes::text[], :models::text[], :queues::text[], :apps::text[],
       :digest::bytea, :secret_id::text, clock(), :created_by::text, :expires_at::timestamptz, :generation::bigint;


-- name: key(tenant_id, id)
-- Return one key of a tenant. Index: primary key.
SELECT id, name, scopes, models, queues, apps, created_at, nullif(created_by, '') AS created_by, expires_at, revoked_at, last_used_at, replaced_by
FROM api_key WHERE tenant_id = :tenant_id AND id = :id;


-- name: keys_of(tenant_id, at_most)
-- Return the keys of a tenant, the oldest first. Index: api_key_tenant.
SELECT id, name, scopes, models, queues, apps, created_at, nullif(created_by, '') AS created_by, expires_at, revoked_at, last_used_at, replaced_by
FROM api_key WHERE tenant_id = :tenant_id ORDER BY created_at, id LIMIT :at_most;


-- name: live_keys(tenant_id)
-- Return how many keys of a tenant are valid. Index: api_key_tenant.
SELECT count(*) FROM api_key
WHERE tenant_id = :tenant_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock());


-- name: change_key(tenant_id, id, name, scopes, models, queues, apps, expires_at, generation)!
-- Change a key. Locks: the key. Index: primary key.
UPDATE api_key
SET name = :name, scopes = :scopes, models = :models, queues = :queues, apps = :apps, expires_at = :expires_at,
    changed = :generation
WHERE tenant_id = :tenant_id AND id = :id;


-- name: revoke(tenant_id, id, generation)!
-- Revoke a key. Locks: the key. Index: primary key.
UPDATE api_key SET revoked_at = clock(), changed = :generation
WHERE tenant_id = :tenant_id AND id = :id AND revoked_at IS NULL;


-- name: replace_key(tenant_id, id, replaced_by, overlap_seconds, generation)!
-- Let a key expire after an overlap, or at its own expiry if that is earlier. Locks: the key. Index: primary key.
UPDATE api_key
SET replaced_by = :replaced_by, changed = :generation,
    expires_at = least(expires_at, clock() + make_interval(secs => :overlap_seconds::float8))
WHERE tenant_id = :tenant_id AND id = :id;


-- name: create_tenant(name, time_zone, generation)
-- Create a tenant; returns nothing where the name is taken.
-- tenant: every (it creates one)
INSERT INTO tenant (name, time_zone, created_at, changed)
SELECT :name::text, :time_zone::text, clock(), :generation::bigint
ON CONFLICT (name) DO NOTHING
RETURNING id;


-- name: tenant(name)
-- Return a tenant by name. Index: tenant_name_key.
-- tenant: every (the operator names it)
SELECT t.id, t.name, t.time_zone, t.created_at, t.suspended_at, t.deleting_since FROM tenant t WHERE t.name = :name;


-- name: active_tenants(names)
-- Return which of some tenants are not suspended. Index: tenant_name_key.
-- tenant: every (operators have issued tickets for them)
SELECT t.name FROM unnest(:names::text[]) AS wanted(name) JOIN tenant t ON t.name = wanted.name
WHERE t.suspended_at IS NULL;


-- name: tenants(after, at_most)
-- Return tenants by name. Index: tenant_name_key.
-- tenant: every (for the operator)
SELECT t.name, t.time_zone, t.created_at, t.suspended_at, t.deleting_since FROM tenant t
WHERE t.name > :after ORDER BY t.name LIMIT :at_most;


-- name: change_tenant(name, time_zone, suspended, generation)!
-- Change a tenant. Locks: the tenant. Index: tenant_name_key.
-- tenant: every (the operator names it)
UPDATE tenant
SET time_zone = :time_zone, changed = :generation,
    suspended_at = CASE WHEN :suspended::boolean THEN coalesce(suspended_at, clock()) END
WHERE name = :name;


-- name: begin_deletion(name, with_usage, generation)!
-- Have a suspended tenant deleted; workers take no more of its jobs. Locks: the tenant. Index: tenant_name_key.
-- tenant: every (the operator names it)
WITH marked AS (
    UPDATE tenant
    SET deleting_since = coalesce(deleting_since, clock()), changed = :generation::bigint,
        deletes_usage = deletes_usage OR :with_usage::boolean
    WHERE name = :name::text RETURNING id
)
INSERT INTO pause (tenant_id, task_type, model_profile, paused_at) SELECT id, '', '', clock() FROM marked
ON CONFLICT (tenant_id, task_type, model_profile) DO NOTHING;


-- name: audit(tenant_id, key_id, user_id, address, action, subject, before, after)!
-- Record an action.
INSERT INTO audit (tenant_id, at, key_id, user_id, address, action, subject, before, after)
SELECT :tenant_id::integer, clock(), :key_id::text, :user_id::text, :address::text, :action::text, :subject::text,
       :before::json, :after::json;


-- name: audit_of(tenant_id, before_id, action, subject, at_most)
-- Return the recorded actions of a tenant, the newest first. Index: audit_tenant.
SELECT id, at, nullif(key_id, '') AS key_id, nullif(user_id, '') AS user_id, address, action, subject, before, after
FROM audit
WHERE tenant_id = :tenant_id AND id < :before_id
  AND (:action::text IS NULL OR action = :action) AND (:subject::text IS NULL OR subject = :subject)
ORDER BY id DESC LIMIT :at_most;


-- name: secrets()
-- Return the ids and canaries of the secrets.
-- tenant: every (they belong to the installation)
SELECT id, canary FROM instance_secret ORDER BY created_at;


-- name: add_secret(id, canary)!
-- Add a secret.
-- tenant: every (they belong to the installation)
INSERT INTO instance_secret (id, canary) VALUES (:id, :canary) ON CONFLICT (id) DO NOTHING;


-- name: remove_secret(id)!
-- Remove a secret that no longer protects anything. Index: primary key.
-- tenant: every (they belong to the installation)
DELETE FROM instance_secret WHERE id = :id;


-- name: keys_under(secret_id, at_most)
-- Return the valid keys whose digests a secret made. Index: api_key_secret.
-- tenant: every (a secret protects keys of all tenants)
SELECT k.id, k.name, t.name AS tenant_name FROM api_key k JOIN tenant t ON t.id = k.tenant_id
WHERE k.secret_id = :secret_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock())
ORDER BY t.name, k.id LIMIT :at_most;


-- name: drop_ended_keys_under(secret_id)!
-- Delete the revoked and expired keys whose digests a secret made. Index: api_key_secret.
-- tenant: every (a secret protects keys of all tenants)
DELETE FROM api_key
WHERE secret_id = :secret_id AND (revoked_at IS NOT NULL OR expires_at <= clock());


-- name: use_ticket(id, ttl_seconds)
-- Use a ticket that is valid once; returns nothing where it has been used.
-- tenant: every (the ticket identifies the tenant)
INSERT INTO ticket_use (id, expires_at)
SELECT :id::text, clock() + make_interval(secs => :ttl_seconds::float8)
ON CONFLICT (id) DO NOTHING
RETURNING id;


-- name: drop_used_tickets()!
-- Delete the records of tickets that have expired. Index: ticket_use_expiry.
-- tenant: every (housekeeping)
DELETE FROM ticket_use WHERE expires_at <= clock();
