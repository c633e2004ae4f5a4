-- Models that were registered or removed over HTTP. Loaded by penstock.models.store.

-- name: position(tenant_id)
-- The number of the newest change, a cheap way to detect changes. Index: model_changed.
SELECT coalesce((SELECT changed FROM model WHERE tenant_id = :tenant_id ORDER BY changed DESC LIMIT 1), 0);


-- name: read_all(tenant_id)
-- Every row, the oldest change first. Index: model_changed.
SELECT name, version, manifest, removed FROM model WHERE tenant_id = :tenant_id ORDER BY changed;


-- name: put(tenant_id, name, version, manifest, removed)
-- Registers or removes a version. A null manifest stands for the one in the operator's folder. Locks: the row.
INSERT INTO model (tenant_id, name, version, manifest, removed, changed)
SELECT :tenant_id::integer, :name::text, :version::text, :manifest::json, :removed::boolean, nextval('model_change')
ON CONFLICT (tenant_id, name, version)
DO UPDATE SET manifest = excluded.manifest, removed = excluded.removed, changed = excluded.changed;
