-- Models that were registered at run time, and manifests of the operator's folder that were removed from service.

-- Grows with every change: a host that has seen a number has seen all changes up to it. (Changes are rare. A host that
-- polls while one is being committed finds it at its next poll, because it compares all rows, not only newer ones.)
CREATE SEQUENCE model_change AS bigint;

CREATE TABLE model (
    tenant_id integer NOT NULL REFERENCES tenant,
    shared    boolean NOT NULL,  -- the operator's: other tenants see it too
    name      text NOT NULL,
    version   text NOT NULL,
    manifest  json,              -- NULL: use the manifest in the operator's folder, or "sealed"
    sealed    bytea,             -- a manifest with secrets, encrypted with the secret below
    secret_id text,
    removed   boolean NOT NULL,
    changed   bigint NOT NULL,
    PRIMARY KEY (tenant_id, shared, name, version),
    CHECK (manifest IS NOT NULL OR sealed IS NOT NULL OR shared),
    CHECK (manifest IS NULL OR sealed IS NULL),
    CHECK ((sealed IS NULL) = (secret_id IS NULL))
);
CREATE INDEX model_changed ON model (changed);
CREATE INDEX model_secret ON model (secret_id) WHERE secret_id IS NOT NULL;
