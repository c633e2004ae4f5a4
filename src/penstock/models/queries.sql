-- Models that were registered or removed over HTTP. Loaded by penstock.models.store.

-- name: position()
-- Return the number of the newest change, a cheap way to detect changes. Index: model_changed.
-- tenant: every (a host serves the models of all tenants)
SELECT coalesce((SELECT changed FROM model ORDER BY changed DESC LIMIT 1), 0);


-- name: read_all()
-- Return every row, the oldest change first. Indexes: model_changed, tenant_pkey.
-- tenant: every (a host serves the models of all tenants)
SELECT CASE WHEN NOT m.shared THEN t.name END AS owner, m.name, m.version, m.manifest, m.sealed, m.secret_id,
       m.removed
FROM model m JOIN tenant t ON t.id = m.tenant_id
ORDER BY m.changed;


-- name: put(tenant_id, shared, name, version, manifest, sealed, secret_id, removed)!
-- Register or remove a version. A null manifest stands for the one in the operator's folder. Locks: the row.
INSERT INTO model (tenant_id, shared, name, version, manifest, sealed, secret_id, removed, changed)
SELECT :tenant_id::integer, :shared::boolean, :name::text, :version::text, :manifest::json, :sealed::bytea, :secret_id::text,
       :removed::boolean, nextval('model_change')
ON CONFLICT (tenant_id, shared, name, version)
DO UPDATE SET manifest = excluded.manifest, sealed = excluded.sealed, secret_id = excluded.secret_id,
              removed = excluded.removed, changed = excluded.changed;


-- name: sealed_under(secret_id)
-- Return the models whose manifests a secret encrypts. Locks: the rows, in the order of the primary key. Index:
-- model_secret.
-- tenant: every (a secret protects the models of all tenants)
SELECT m.tenant_id, m.shared, CASE WHEN NOT m.shared THEN t.name END AS owner, m.name, m.version, m.sealed
FROM model m JOIN tenant t ON t.id = m.tenant_id
WHERE m.secret_id = :secret_id
ORDER BY m.tenant_id, m.shared, m.name, m.version
FOR UPDATE OF m;


-- name: reseal(tenant_id, shared, name, version, sealed, secret_id)!
-- Store a manifest under another secret; hosts read it again. Locks: the row. Index: primary key.
UPDATE model SET sealed = :sealed, secret_id = :secret_id, changed = nextval('model_change')
WHERE tenant_id = :tenant_id AND shared = :shared AND name = :name AND version = :version;
