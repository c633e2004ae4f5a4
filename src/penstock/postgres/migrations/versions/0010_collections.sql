-- Collections: named sets of vectors with attributes, searched for the nearest ones.
--
-- Vectors are real[], which every PostgreSQL has. Where the extension pgvector is installed, searches cast them to its type:
-- distances take a twentieth of the time, and large collections have an HNSW index over that cast.

CREATE TABLE collection (
    tenant_id  integer NOT NULL REFERENCES tenant,
    id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    name       text NOT NULL COLLATE "C",
    dimension  integer NOT NULL CHECK (dimension BETWEEN 1 AND 4096),
    metric     text NOT NULL CHECK (metric IN ('l2', 'cosine', 'ip')),
    items      bigint NOT NULL DEFAULT 0 CHECK (items >= 0),  -- kept by each write, which locks this row
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,                          -- of the last write
    removed_at timestamptz,                                   -- its items, and then the row, are deleted soon
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX collection_name ON collection (tenant_id, name) WHERE removed_at IS NULL;
CREATE INDEX collection_removed ON collection (removed_at) WHERE removed_at IS NOT NULL;

CREATE TABLE collection_item (
    tenant_id     integer NOT NULL,
    collection_id bigint NOT NULL,
    key           text NOT NULL COLLATE "C",
    group_name    text NOT NULL COLLATE "C",   -- '': none
    attributes    jsonb NOT NULL,
    blob_id       uuid,                        -- the file that it stands for, which may have expired
    vector        real[] NOT NULL,             -- of length 1 where the metric is cosine
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, collection_id, key),
    FOREIGN KEY (tenant_id, collection_id) REFERENCES collection
);
ALTER TABLE collection_item ALTER vector SET STORAGE EXTERNAL;  -- floats do not compress
CREATE INDEX collection_item_group ON collection_item (tenant_id, collection_id, group_name, key) WHERE group_name <> '';

-- What jobs have written, with the outcome: an attempt that runs again returns it instead of writing twice.
CREATE TABLE collection_write (
    tenant_id integer NOT NULL,
    job_id    uuid NOT NULL,
    outcome   json NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, job_id)
);
CREATE INDEX collection_write_at ON collection_write (at);


-- Distances of vectors of the same dimension, for servers without pgvector.
CREATE FUNCTION collection_l2(a real[], b real[]) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    total double precision := 0;
    difference double precision;
BEGIN
    FOR i IN 1 .. cardinality(a) LOOP
        difference := a[i]::double precision - b[i];
        total := total + difference * difference;
    END LOOP;
    RETURN sqrt(total);
END $$;

CREATE FUNCTION collection_product(a real[], b real[]) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    total double precision := 0;
BEGIN
    FOR i IN 1 .. cardinality(a) LOOP
        total := total + a[i]::double precision * b[i];
    END LOOP;
    RETURN total;
END $$;


-- Install pgvector if the server has it and this user may; returns whether it is installed. Safe to repeat.
CREATE FUNCTION collection_enable_vector() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')
       AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
        CREATE EXTENSION IF NOT EXISTS vector;
    END IF;
    RETURN EXISTS (SELECT FROM pg_extension WHERE extname = 'vector');
EXCEPTION WHEN insufficient_privilege OR unique_violation OR duplicate_object THEN
    RETURN false;  -- an operator installs it; or another process is doing so
END $$;

SELECT collection_enable_vector();

-- The schema of pgvector and its version; no row where it is not installed.
CREATE FUNCTION collection_vector(OUT schema_name text, OUT version integer[]) RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT n.nspname::text, string_to_array(substring(e.extversion FROM '^[0-9.]+'), '.')::integer[]
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
$$;

-- The name of a collection's HNSW index.
CREATE FUNCTION collection_index_name(the_collection bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'collection_hnsw_' || the_collection;
$$;


-- The k items nearest to a vector: the smallest distance first, equal ones by key. Of metric ip the distance is the negative inner
-- product. Without exact and without conditions, an HNSW index is used if there is one (indexed), which may miss some.
CREATE FUNCTION collection_search(the_tenant integer, the_collection bigint, wanted real[], k integer, the_group text,
                                  wanted_attributes jsonb, exact boolean, with_vectors boolean)
RETURNS TABLE (key text, distance double precision, group_name text, attributes json, blob_id uuid, vector real[], indexed boolean)
LANGUAGE plpgsql AS $$
DECLARE
    c collection;
    extension record;
    measure text;       -- SQL for the distance
    nearest text;       -- SQL for the order of the index
    conditions text;
BEGIN
    SELECT * INTO c FROM collection o WHERE o.tenant_id = the_tenant AND o.id = the_collection;
    IF NOT FOUND THEN
        RETURN;  -- it was removed meanwhile
    END IF;
    SELECT * INTO extension FROM collection_vector();
    indexed := false;
    IF FOUND THEN
        nearest := format('i.vector::%1$I.vector(%2$s) OPERATOR(%1$I.%3$s) $1::%1$I.vector(%2$s)', extension.schema_name, c.dimension,
                          CASE c.metric WHEN 'l2' THEN '<->' WHEN 'cosine' THEN '<=>' ELSE '<#>' END);
        measure := '(' || nearest || ')::double precision + 0.0';  -- the sum keeps an index out
        indexed := NOT exact AND the_group IS NULL AND wanted_attributes IS NULL
                   AND EXISTS (SELECT FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid
                               WHERE x.indrelid = 'collection_item'::regclass AND x.indisvalid
                                 AND r.relname = collection_index_name(the_collection));
    ELSE
        measure := CASE c.metric WHEN 'l2' THEN 'collection_l2(i.vector, $1)'
                                 WHEN 'cosine' THEN 'greatest(0, 1 - collection_product(i.vector, $1))'
                                 ELSE '-collection_product(i.vector, $1)' END;
    END IF;
    conditions := format('i.tenant_id = %s AND i.collection_id = %s', the_tenant, the_collection);
    IF indexed THEN
        PERFORM set_config('hnsw.ef_search', least(1000, greatest(100, 2 * k))::text, true);
        IF extension.version >= ARRAY[0, 8] THEN
            PERFORM set_config('hnsw.iterative_scan', 'strict_order', true);
        END IF;
        conditions := format('(SELECT * FROM collection_item i WHERE %s ORDER BY %s LIMIT $2) i', conditions, nearest);
    ELSE
        IF the_group IS NOT NULL THEN
            conditions := conditions || ' AND i.group_name = $3 AND i.group_name <> ''''';
        END IF;
        IF wanted_attributes IS NOT NULL THEN
            conditions := conditions || ' AND i.attributes @> $4';
        END IF;
        conditions := 'collection_item i WHERE ' || conditions;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT n.key, n.distance, n.group_name, n.attributes::json, n.blob_id, CASE WHEN $5 THEN n.vector END, $6
         FROM (SELECT i.*, %s AS distance FROM %s) n ORDER BY n.distance, n.key LIMIT $2', measure, conditions)
        USING wanted, k, the_group, wanted_attributes, with_vectors, indexed;
END $$;


-- The next statement that brings the HNSW indexes in step, or NULL: removes what is broken, small or not used any more; then
-- adds one for the largest collection without, while there are fewer than max_indexes. Each index is a part of every write to
-- the table, however many rows it concerns. The caller runs it outside a transaction, one at a time in the database.
CREATE FUNCTION collection_index_work(min_items bigint, max_indexes integer) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    work text;
    extension record;
BEGIN
    SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %s', r.oid::regclass) INTO work
    FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid
    WHERE x.indrelid = 'collection_item'::regclass AND r.relname LIKE 'collection\_hnsw\_%'
      AND (NOT x.indisvalid OR NOT EXISTS (
          SELECT FROM collection c WHERE collection_index_name(c.id) = r.relname AND c.removed_at IS NULL AND c.items >= min_items / 2))
    LIMIT 1;
    SELECT * INTO extension FROM collection_vector();
    IF work IS NOT NULL OR extension.version IS NULL OR extension.version < ARRAY[0, 5] THEN
        RETURN work;
    END IF;
    SELECT format('CREATE INDEX CONCURRENTLY %1$I ON collection_item USING hnsw ((vector::%2$I.vector(%3$s)) %2$I.%4$s)'
                  ' WHERE tenant_id = %5$s AND collection_id = %6$s',
                  collection_index_name(c.id), extension.schema_name, c.dimension,
                  CASE c.metric WHEN 'l2' THEN 'vector_l2_ops' WHEN 'cosine' THEN 'vector_cosine_ops' ELSE 'vector_ip_ops' END,
                  c.tenant_id, c.id) INTO work
    FROM collection c
    WHERE c.items >= min_items AND c.removed_at IS NULL AND c.dimension <= 2000
      AND to_regclass(collection_index_name(c.id)) IS NULL
      AND (SELECT count(*) FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid
           WHERE x.indrelid = 'collection_item'::regclass AND r.relname LIKE 'collection\_hnsw\_%') < max_indexes
    ORDER BY c.items DESC, c.id LIMIT 1;
    RETURN work;
END $$;
