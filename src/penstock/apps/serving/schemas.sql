-- The schemas that the workers of services publish. Loaded by penstock.apps.serving.schemas.
-- Models of apps belong to the operator, so their rows have no tenant.


-- name: publish_schemas(models, fingerprints, schemas)!
-- tenant: every (models of apps belong to the operator)
-- Stores the schemas of the inputs that a worker's models take, and records that it is alive. Locks: rows of app_model, in key
-- order. Index: primary key.
INSERT INTO app_model AS m (model, fingerprint, schema, seen_at)
SELECT n.model, n.fingerprint, n.schema, clock()
FROM unnest(:models::text[], :fingerprints::text[], :schemas::json[]) AS n(model, fingerprint, schema)
ORDER BY n.model, n.fingerprint
ON CONFLICT (model, fingerprint) DO UPDATE SET seen_at = clock();


-- name: forget_schemas(seconds)!
-- tenant: every (models of apps belong to the operator)
-- Removes schemas that no worker has had for this time. Locks: rows of app_model, in key order. Scans app_model, which is small.
WITH old AS MATERIALIZED (
    SELECT model, fingerprint FROM app_model WHERE seen_at < clock() - make_interval(secs => :seconds::float8)
    ORDER BY model, fingerprint FOR UPDATE
)
DELETE FROM app_model WHERE (model, fingerprint) IN (SELECT model, fingerprint FROM old);


-- name: schemas_of(model, alive_seconds)
-- tenant: every (models of apps belong to the operator)
-- Returns the schemas that workers have now. Index: primary key.
SELECT fingerprint, schema FROM app_model
WHERE model = :model AND seen_at > clock() - make_interval(secs => :alive_seconds::float8);
