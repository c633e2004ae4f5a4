-- Athena Serving.

-- Credentials of clients that sign their requests. Each belongs to a key: it has the key's rights, and ends with it. They are never
-- changed, except that their secrets are encrypted again when the secret of the installation is rotated.
CREATE TABLE athena_credential (
    tenant_id  integer NOT NULL REFERENCES tenant,
    key_id     text PRIMARY KEY REFERENCES api_key ON DELETE CASCADE,
    api_key    text NOT NULL UNIQUE CHECK (api_key ~ '^[0-9a-f]{32}$'),
    app_id     text NOT NULL CHECK (app_id <> ''),
    sealed     bytea NOT NULL, -- api_secret, encrypted: signatures need it
    secret_id  text NOT NULL REFERENCES instance_secret, -- encrypts it
    created_at timestamptz NOT NULL
);
CREATE INDEX athena_credential_tenant ON athena_credential (tenant_id, created_at, key_id);
CREATE INDEX athena_credential_secret ON athena_credential (secret_id);
