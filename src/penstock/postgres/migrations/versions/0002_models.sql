-- Models that were registered at run time, and manifests of the operator's folder that were removed from service.

-- Grows with every change: a host that has seen a number has seen all changes up to it. (Changes are rare. A host that
-- polls while one is being committed finds it at its next poll, because it compares all rows, not only newer ones.)
CREATE SEQUENCE model_change AS bigint;

CREATE TABLE model (
    tenant_id integer REFERENCES tenant, -- NULL: the operator's, shared with tenants
    name      text NOT NULL,
    version   text NOT NULL,
    manifest  json,              -- NULL: use the manifest in the operator's folder
    removed   boolean NOT NULL,
    changed   bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, name, version),
    CHECK (manifest IS NOT NULL OR tenant_id IS NULL)
);
CREATE INDEX model_changed ON model (changed);
