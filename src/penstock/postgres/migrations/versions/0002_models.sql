-- Models that were registered at run time, and the manifests of the operator's folder that were taken away.

-- Grows with every change: a host that has seen a number has seen all changes up to it (changes are rare, and a host
-- that looks while one is being committed finds it at its next look: it compares all rows, not only newer ones).
CREATE SEQUENCE model_change AS bigint;

CREATE TABLE model (
    tenant_id integer NOT NULL REFERENCES tenant,
    name      text NOT NULL,
    version   text NOT NULL,
    manifest  json,              -- NULL: the one in the operator's folder is meant
    removed   boolean NOT NULL,
    changed   bigint NOT NULL,
    PRIMARY KEY (tenant_id, name, version)
);
CREATE INDEX model_changed ON model (tenant_id, changed);
