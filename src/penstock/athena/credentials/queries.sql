-- Credentials of Athena's clients. Loaded by penstock.athena.credentials.store.

-- name: create(tenant_id, key_id, api_key, app_id, sealed, secret_id)!
-- Add credentials to a key that the same transaction creates.
INSERT INTO athena_credential (tenant_id, key_id, api_key, app_id, sealed, secret_id, created_at)
SELECT :tenant_id::integer, :key_id::text, :api_key::text, :app_id::text, :sealed::bytea, :secret_id::text, clock();


-- name: of_tenant(tenant_id)
-- Return the credentials of a tenant, the oldest first. Indexes: athena_credential_tenant, primary key of api_key.
SELECT k.id, k.name, c.app_id, c.api_key, k.models AS services, c.created_at, k.expires_at, k.revoked_at, k.last_used_at
FROM athena_credential c JOIN api_key k ON k.tenant_id = c.tenant_id AND k.id = c.key_id
WHERE c.tenant_id = :tenant_id ORDER BY c.created_at, c.key_id LIMIT 10000;


-- name: one(tenant_id, key_id)
-- Return the credentials of one key. Indexes: primary keys.
SELECT k.id, k.name, c.app_id, c.api_key, k.models AS services, c.created_at, k.expires_at, k.revoked_at, k.last_used_at
FROM athena_credential c JOIN api_key k ON k.tenant_id = c.tenant_id AND k.id = c.key_id
WHERE c.tenant_id = :tenant_id AND c.key_id = :key_id;


-- name: by_api_key(api_keys)
-- Return credentials by their API keys, for verifying requests. Index: athena_credential_api_key_key.
-- tenant: every (the API key identifies the tenant)
SELECT key_id, api_key, app_id, sealed, secret_id FROM athena_credential WHERE api_key = ANY (:api_keys::text[]);


-- name: sealed_under(secret_id)
-- Return the credentials whose secrets a secret of the installation encrypts, and lock them. Index: athena_credential_secret.
-- tenant: every (a secret protects the credentials of all tenants)
SELECT key_id, api_key, app_id, sealed, secret_id FROM athena_credential WHERE secret_id = :secret_id
ORDER BY key_id FOR UPDATE;


-- name: reseal(key_id, sealed, secret_id)!
-- Store a secret that was encrypted with another secret of the installation. Index: primary key.
-- tenant: every (a secret protects the credentials of all tenants)
UPDATE athena_credential SET sealed = :sealed::bytea, secret_id = :secret_id::text WHERE key_id = :key_id;
