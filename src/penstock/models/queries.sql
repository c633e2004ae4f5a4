-- Models that were registered or removed over HTTP. Loaded by penstock.models.store.

-- name: position()
-- Return the number of the newest change, a cheap way to detect changes. Index: model_changed.
-- tenant: every (a host serves the models of all tenants)
SELECT coalesce((SELECT changed FROM model ORDER BY changed DESC LIMIT 1), 0);


-- name: read_all()
-- Return every row, the oldest change first. Indexes: model_changed, tenant_pkey.
-- tenant: every (a host serves the models of all tenants)
SELECT t.name AS owner, m.name, m.version, m.manifest, m.removed
FROM model m LEFT JOIN tenant t ON t.id = m.tenant_id
ORDER BY m.changed;


-- name: put(tenant_id, name, version, manifest, removed)!
-- Register or remove a version. A null manifest stands for the one in the operator's folder; a null tenant for the
-- operator. Locks: the row.
INSERT INTO model (tenant_id, name, version, manifest, removed, changed)
SELECT :tenant_id::integer, :name::text, :version::text, :manifest::json, :removed::boolean, nextval('model_change')
ON CONFLICT (tenant_id, name, version)
DO UPDATE SET manifest = excluded.manifest, removed = excluded.removed, changed = excluded.changed;
