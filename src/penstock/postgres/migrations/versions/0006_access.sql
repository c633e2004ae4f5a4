-- Access to the gateways: keys, tickets, and the audit log.

-- One row. Each change of a tenant or a key takes the next number in its own transaction and stamps what it changed. Because
-- of the row lock, numbers have the order of the commits, which a sequence would not ensure: a gateway that has seen a number
-- has seen all changes up to it.
CREATE TABLE access_generation (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO access_generation (generation) VALUES (0);

-- The secrets that protect rows of this database: an id for each, and a value that only its holder can decrypt. There is one
-- row, and two while the secret is rotated.
CREATE TABLE instance_secret (
    id         text PRIMARY KEY,
    canary     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE model ADD FOREIGN KEY (secret_id) REFERENCES instance_secret;

CREATE TABLE api_key (
    id           text PRIMARY KEY CHECK (id ~ '^[0-9A-Za-z]{12}$'),
    tenant_id    integer NOT NULL REFERENCES tenant,
    name         text NOT NULL,
    scopes       text[] NOT NULL,
    models       text[], -- the names it may use; NULL: all
    queues       text[],
    apps         text[],
    digest       bytea NOT NULL, -- keyed with the secret that secret_id names
    secret_id    text NOT NULL REFERENCES instance_secret,
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL, -- the id of a key; '' for AI_SERVICE_TOKEN
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz, -- to the minute
    replaced_by  text REFERENCES api_key ON DELETE SET NULL,
    changed      bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX api_key_tenant ON api_key (tenant_id, created_at, id);
CREATE INDEX api_key_changed ON api_key (changed);
CREATE INDEX api_key_secret ON api_key (secret_id);

-- One-time tickets that have been used.
CREATE TABLE ticket_use (
    id         text PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ticket_use_expiry ON ticket_use (expires_at);

-- Each action that manages something, written in its transaction. "before" and "after" hold no secrets.
CREATE TABLE audit (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant, -- the tenant that the action is about
    at        timestamptz NOT NULL,
    key_id    text NOT NULL, -- of the sender; '' for AI_SERVICE_TOKEN
    user_id   text NOT NULL, -- the end user that the sender stated, or ''
    address   text NOT NULL, -- of the other end of the connection
    action    text NOT NULL, -- "key.create"
    subject   text NOT NULL, -- its id or name
    before    json,
    after     json
);
CREATE INDEX audit_tenant ON audit (tenant_id, id);

-- The tables and leaf partitions that hold rows of tenants: a table comes before the tables that its foreign keys refer to.
-- "indexed": whether an index begins with tenant_id.
CREATE FUNCTION tenant_leaves() RETURNS TABLE (leaf text, root text, indexed boolean) LANGUAGE sql STABLE AS $$
    SELECT c.oid::regclass::text, coalesce(pg_partition_root(c.oid), c.oid)::regclass::text,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'tenant'::regclass)
    ORDER BY (SELECT count(*) FROM pg_constraint f WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.conrelid <> c.oid), 1
$$;

-- Deletes some rows of a tenant from one of these tables: at most 1000 if an index finds them, else those in 2000 pages from the
-- given page on. Returns how many it deleted, and the page to continue at: NULL at the end. Locks: the rows.
CREATE FUNCTION delete_of_tenant(the_tenant integer, leaf text, page bigint, OUT deleted bigint, OUT next_page bigint)
LANGUAGE plpgsql AS $$
DECLARE
    indexed boolean;
    pages bigint;
BEGIN
    SELECT t.indexed INTO indexed FROM tenant_leaves() t WHERE t.leaf = delete_of_tenant.leaf;
    deleted := 0;
    IF NOT FOUND THEN -- retention has dropped it
        RETURN;
    END IF;
    IF indexed THEN
        EXECUTE format('DELETE FROM ONLY %1$s WHERE ctid = ANY (ARRAY(SELECT ctid FROM ONLY %1$s WHERE tenant_id = $1 LIMIT 1000))',
                       leaf) USING the_tenant;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        next_page := CASE WHEN deleted > 0 THEN 0 END;
        RETURN;
    END IF;
    pages := pg_relation_size(leaf::regclass) / current_setting('block_size')::integer;
    EXECUTE format('DELETE FROM ONLY %s WHERE tenant_id = $1 AND ctid >= $2 AND ctid < $3', leaf)
        USING the_tenant, format('(%s,0)', page)::tid, format('(%s,0)', page + 2000)::tid;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    next_page := CASE WHEN page + 2000 < pages THEN page + 2000 END;
END $$;
