-- Uploaded files: what is known of each, and where its bytes are. The bytes of one file are an object: a key in a store, which
-- is PostgreSQL (parts in "blob_part"), a folder or a bucket.
--
-- An object that no blob refers to has a row in "blob_leftover", which says when to remove it. So a write inserts that row
-- first, and the statement that creates the blob deletes it; the statement that deletes a blob inserts it again. Whatever dies
-- in between, no object is forgotten and a blob exists whole or not at all. No transaction lasts as long as an upload.

CREATE TABLE blob_store (
    id         uuid PRIMARY KEY, -- also in a file in the store, so that no other folder or bucket is taken for it
    url        text NOT NULL UNIQUE,
    marked     boolean NOT NULL, -- the store has that file
    created_at timestamptz NOT NULL
);
INSERT INTO blob_store (id, url, marked, created_at) VALUES ('00000000-0000-0000-0000-000000000000', 'postgres', true, now());

CREATE TABLE blob (
    tenant_id  integer NOT NULL REFERENCES tenant,
    id         uuid NOT NULL,
    media_type text NOT NULL CHECK (length(media_type) BETWEEN 3 AND 255),
    filename   text CHECK (length(filename) BETWEEN 1 AND 255),
    size_bytes bigint NOT NULL CHECK (size_bytes >= 1),
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    store_id   uuid NOT NULL REFERENCES blob_store,
    key        text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 512),
    missing_at timestamptz, -- when its object was found to be missing
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX blob_expiry ON blob (expires_at);
CREATE UNIQUE INDEX blob_object ON blob (store_id, key); -- an object belongs to one blob
CREATE INDEX blob_missing ON blob (missing_at) WHERE missing_at IS NOT NULL;

CREATE TABLE blob_leftover (
    tenant_id integer NOT NULL,
    store_id  uuid NOT NULL REFERENCES blob_store,
    key       text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 512),
    remove_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, store_id, key)
);
CREATE INDEX blob_leftover_due ON blob_leftover (remove_at);

CREATE TABLE blob_upload ( -- in parts, not completed yet
    tenant_id  integer NOT NULL REFERENCES tenant,
    id         uuid NOT NULL, -- becomes the blob's
    media_type text NOT NULL CHECK (length(media_type) BETWEEN 3 AND 255),
    filename   text CHECK (length(filename) BETWEEN 1 AND 255),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX blob_upload_expiry ON blob_upload (expires_at);

CREATE TABLE blob_upload_part ( -- its object is a leftover that is due after the upload's expiry
    tenant_id  integer NOT NULL,
    upload_id  uuid NOT NULL,
    number     integer NOT NULL CHECK (number BETWEEN 1 AND 10000),
    size_bytes bigint NOT NULL CHECK (size_bytes >= 1),
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    store_id   uuid NOT NULL REFERENCES blob_store,
    key        text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, upload_id, number),
    FOREIGN KEY (tenant_id, upload_id) REFERENCES blob_upload ON DELETE CASCADE
);

CREATE TABLE blob_part ( -- of objects in PostgreSQL
    tenant_id integer NOT NULL,
    key       text COLLATE "C" NOT NULL,
    number    integer NOT NULL CHECK (number >= 0),
    data      bytea NOT NULL CHECK (octet_length(data) BETWEEN 1 AND 524288),
    PRIMARY KEY (tenant_id, key, number)
);
ALTER TABLE blob_part ALTER COLUMN data SET STORAGE EXTERNAL; -- media do not compress
