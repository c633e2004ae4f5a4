-- Uploaded files, in parts, so that every gateway and worker can read them.
--
-- Each part is written by a statement of its own, and the row in "blob" last: a blob exists whole or not at all, and no
-- transaction lasts as long as an upload. Part 0 is written first and removed last, so that it leads to parts without a blob.

CREATE TABLE blob (
    tenant_id  integer NOT NULL REFERENCES tenant,
    id         uuid NOT NULL,
    media_type text NOT NULL CHECK (length(media_type) BETWEEN 3 AND 255),
    filename   text CHECK (length(filename) BETWEEN 1 AND 255),
    size_bytes bigint NOT NULL CHECK (size_bytes >= 1),
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX blob_expiry ON blob (expires_at);

CREATE TABLE blob_part (
    tenant_id  integer NOT NULL,
    blob_id    uuid NOT NULL,
    number     integer NOT NULL CHECK (number >= 0),
    data       bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 524288),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, blob_id, number)
);
ALTER TABLE blob_part ALTER COLUMN data SET STORAGE EXTERNAL; -- media do not compress
CREATE INDEX blob_part_first ON blob_part (created_at) WHERE number = 0;
