-- Blobs, the objects that hold their bytes, and the parts of objects in PostgreSQL. Loaded by penstock.blobs.store.
--
-- A write may last twelve hours; its object is removed after a day unless a blob refers to it by then. A statement takes
-- seconds, so an object whose write still continues is never removed, and none is referred to after it was due.

-- name: stores()
-- tenant: every (stores belong to the installation)
-- Return the stores that hold objects, or once held some.
SELECT id, url, marked FROM blob_store;


-- name: add_store(id, url)!
-- tenant: every (stores belong to the installation)
-- Add a store, unless there is one of that URL. Index: blob_store_url_key.
INSERT INTO blob_store (id, url, marked, created_at) VALUES (:id::uuid, :url::text, false, clock()) ON CONFLICT (url) DO NOTHING;


-- name: store_marked(id)!
-- tenant: every (stores belong to the installation)
-- Record that a store has the file with its id. Locks: the row.
UPDATE blob_store SET marked = true WHERE id = :id AND NOT marked;


-- name: begin(tenant_id, store_id, key)!
-- Announce an object that is about to be written. Index: primary key of blob_leftover.
INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)
SELECT :tenant_id::integer, :store_id::uuid, :key::text, clock() + interval '1 day';


-- name: finish(tenant_id, id, media_type, filename, size_bytes, sha256, keep_seconds, store_id, key)
-- Make a blob of a written object, if the write was short enough. Locks: the row of blob_leftover. Index: its primary key.
WITH written AS (
    DELETE FROM blob_leftover
    WHERE tenant_id = :tenant_id::integer AND store_id = :store_id::uuid AND key = :key::text
      AND remove_at > clock() + interval '12 hours'
    RETURNING 1
)
INSERT INTO blob (tenant_id, id, media_type, filename, size_bytes, sha256, created_at, expires_at, store_id, key)
SELECT :tenant_id::integer, :id::uuid, :media_type::text, :filename::text, :size_bytes::bigint, :sha256::text, clock(),
       clock() + make_interval(secs => :keep_seconds::float8), :store_id::uuid, :key::text
FROM written
RETURNING id, media_type, filename, size_bytes, sha256, created_at, expires_at;


-- name: put_small(tenant_id, id, media_type, filename, sha256, keep_seconds, store_id, key, data)
-- Store a blob of one part, with that part. Index: primary keys of blob and blob_part.
WITH part AS (
    INSERT INTO blob_part (tenant_id, key, number, data) SELECT :tenant_id::integer, :key::text, 0, :data::bytea
)
INSERT INTO blob (tenant_id, id, media_type, filename, size_bytes, sha256, created_at, expires_at, store_id, key)
SELECT :tenant_id::integer, :id::uuid, :media_type::text, :filename::text, octet_length(:data::bytea), :sha256::text, clock(),
       clock() + make_interval(secs => :keep_seconds::float8), :store_id::uuid, :key::text
RETURNING id, media_type, filename, size_bytes, sha256, created_at, expires_at;


-- name: put_part(tenant_id, store_id, key, number, data)
-- Store one part of an announced object, while its write is short enough. Returns its number, or nothing. Index: primary
-- keys of blob_part and blob_leftover.
INSERT INTO blob_part (tenant_id, key, number, data)
SELECT :tenant_id::integer, :key::text, :number::integer, :data::bytea
WHERE EXISTS (SELECT FROM blob_leftover l WHERE l.tenant_id = :tenant_id::integer AND l.store_id = :store_id::uuid
              AND l.key = :key::text AND l.remove_at > clock() + interval '12 hours')
RETURNING number;


-- name: find(tenant_id, id)
-- Return a blob that has not expired. Index: primary key of blob.
SELECT id, media_type, filename, size_bytes, sha256, created_at, expires_at, store_id, key, missing_at,
       clock() AS read_at
FROM blob WHERE tenant_id = :tenant_id AND id = :id AND expires_at > clock();


-- name: read_part(tenant_id, key, number, first, count)
-- Return bytes of one part. It is stored uncompressed, so that only those are read. Index: primary key of blob_part.
SELECT substring(data FROM :first::integer + 1 FOR :count::integer)
FROM blob_part WHERE tenant_id = :tenant_id AND key = :key AND number = :number;


-- name: size_of_parts(tenant_id, key)
-- Return the size of an object in bytes; null if it has no parts. Index: primary key of blob_part.
SELECT sum(octet_length(data))::bigint FROM blob_part WHERE tenant_id = :tenant_id AND key = :key;


-- name: remove(tenant_id, id)
-- Remove a blob; its object is due for removal. Returns the object, or nothing. Locks: the row.
WITH gone AS (
    DELETE FROM blob WHERE tenant_id = :tenant_id::integer AND id = :id AND expires_at > clock() RETURNING store_id, key
), due AS (
    INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)
    SELECT :tenant_id::integer, store_id, key, clock() FROM gone
)
SELECT store_id, key FROM gone;


-- name: supersede(tenant_id, prefix, epoch)!
-- Remove blobs of earlier attempts of a job; their objects are due for removal. Keys are PREFIX, epoch, a slash and a name.
-- Locks: the rows. Index: blob_object, once per store.
WITH old AS MATERIALIZED (
    SELECT b.id, split_part(substr(b.key, length(:prefix::text) + 1), '/', 1) AS epoch
    FROM blob_store s JOIN LATERAL (
        SELECT id, key FROM blob
        WHERE tenant_id = :tenant_id::integer AND store_id = s.id
          AND key >= :prefix::text COLLATE "C" AND key < (:prefix::text || '~') COLLATE "C"
    ) b ON true
), gone AS (
    DELETE FROM blob b USING old o
    WHERE b.tenant_id = :tenant_id::integer AND b.id = o.id AND o.epoch ~ '^[0-9]{1,18}$' AND o.epoch::bigint < :epoch::bigint
    RETURNING b.store_id, b.key
)
INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)
SELECT :tenant_id::integer, store_id, key, clock() FROM gone;


-- name: drop_parts(tenant_id, store_id, key, limit)
-- Remove parts of an object that belongs to no blob, highest numbers first; returns how many. Locks: those parts, in the
-- same order. Index: primary key of blob_part.
WITH last AS MATERIALIZED (
    SELECT p.number FROM blob_part p
    WHERE p.tenant_id = :tenant_id AND p.key = :key::text
      AND NOT EXISTS (SELECT FROM blob b WHERE b.tenant_id = :tenant_id AND b.store_id = :store_id::uuid AND b.key = :key::text)
    ORDER BY p.number DESC LIMIT :limit::integer FOR UPDATE OF p
), gone AS (
    DELETE FROM blob_part p USING last l
    WHERE p.tenant_id = :tenant_id AND p.key = :key::text AND p.number = l.number RETURNING 1
)
SELECT count(*) FROM gone;


-- name: give_up(tenant_id, store_id, key)!
-- Make an announced object due for removal now, because its write has failed. Locks: its row. Index: primary key.
UPDATE blob_leftover SET remove_at = clock() WHERE tenant_id = :tenant_id AND store_id = :store_id AND key = :key;


-- name: forget(tenant_id, store_id, key)!
-- Forget an object that has been removed. Locks: its row. Index: primary key of blob_leftover.
DELETE FROM blob_leftover WHERE tenant_id = :tenant_id AND store_id = :store_id AND key = :key AND remove_at <= clock() + interval '1 hour';


-- name: expire(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Remove expired blobs, the oldest first; their objects are due for removal. Returns how many. Locks: their rows, skipping
-- locked ones. Index: blob_expiry.
WITH old AS MATERIALIZED (
    SELECT tenant_id, id FROM blob WHERE expires_at <= clock()
    ORDER BY expires_at LIMIT :limit::integer FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM blob b USING old o WHERE b.tenant_id = o.tenant_id AND b.id = o.id RETURNING b.tenant_id, b.store_id, b.key
), due AS (
    INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at) SELECT tenant_id, store_id, key, clock() FROM gone
)
SELECT count(*) FROM gone;


-- name: remove_all(tenant_id, limit)
-- Remove blobs of a tenant; their objects are due for removal, and so are those of unfinished uploads. Returns whether there are
-- any. Locks: the rows. Indexes: primary keys.
WITH gone AS (
    DELETE FROM blob WHERE tenant_id = :tenant_id::integer AND id IN (
        SELECT id FROM blob WHERE tenant_id = :tenant_id::integer ORDER BY id LIMIT :limit::integer FOR UPDATE)
    RETURNING store_id, key
), due AS (
    INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)
    SELECT :tenant_id::integer, store_id, key, clock() FROM gone
    ON CONFLICT (tenant_id, store_id, key) DO NOTHING
), unfinished AS (
    UPDATE blob_leftover SET remove_at = clock()
    WHERE tenant_id = :tenant_id::integer AND remove_at > clock() + interval '10 minutes'
)
SELECT EXISTS (SELECT FROM gone) OR EXISTS (SELECT FROM blob_leftover WHERE tenant_id = :tenant_id::integer);


-- name: due(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Return objects to remove, the longest due first, and make them due again in ten minutes, in case their removal fails.
-- Locks: their rows, skipping locked ones. Index: blob_leftover_due.
WITH next AS MATERIALIZED (
    SELECT tenant_id, store_id, key FROM blob_leftover WHERE remove_at <= clock()
    ORDER BY remove_at LIMIT :limit::integer FOR UPDATE SKIP LOCKED
)
UPDATE blob_leftover l SET remove_at = clock() + interval '10 minutes' FROM next n
WHERE l.tenant_id = n.tenant_id AND l.store_id = n.store_id AND l.key = n.key
RETURNING l.tenant_id, l.store_id, l.key;


-- name: misplaced(tenant_id_after, id_after, store_id, inline_bytes, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Return blobs that are not in the store that a new blob of their size would go to, in the order of their keys. Index:
-- primary key of blob.
SELECT tenant_id, id, media_type, filename, size_bytes, sha256, store_id, key FROM blob
WHERE (tenant_id, id) > (:tenant_id_after::integer, :id_after::uuid) AND expires_at > clock()
  AND store_id <> CASE WHEN size_bytes <= :inline_bytes::bigint THEN '00000000-0000-0000-0000-000000000000'::uuid
                       ELSE :store_id::uuid END
ORDER BY tenant_id, id LIMIT :limit::integer;


-- name: move(tenant_id, id, from_store_id, from_key, store_id, key)
-- Make a blob refer to a copy of its object, if it still refers to the original, which is then due for removal. Returns the
-- blob's id, or nothing. Locks: the blob, then the row of blob_leftover. Index: their primary keys.
WITH moved AS (
    UPDATE blob b SET store_id = :store_id::uuid, key = :key::text, missing_at = NULL
    WHERE b.tenant_id = :tenant_id::integer AND b.id = :id::uuid
      AND b.store_id = :from_store_id::uuid AND b.key = :from_key::text
      AND EXISTS (SELECT FROM blob_leftover l WHERE l.tenant_id = :tenant_id::integer AND l.store_id = :store_id::uuid
                  AND l.key = :key::text AND l.remove_at > clock() + interval '12 hours')
    RETURNING b.id
), written AS (
    DELETE FROM blob_leftover l USING moved
    WHERE l.tenant_id = :tenant_id::integer AND l.store_id = :store_id::uuid AND l.key = :key::text
), due AS (
    INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)
    SELECT :tenant_id::integer, :from_store_id::uuid, :from_key::text, clock() FROM moved
)
SELECT id FROM moved;


-- name: unknown_objects(store_id, keys)
-- tenant: every (maintenance; the keys begin with their tenant)
-- Return which of these objects neither a blob nor a leftover refers to. Index: blob_object, primary key of blob_leftover.
SELECT k.key FROM unnest(:keys::text[]) AS k(key)
WHERE NOT EXISTS (SELECT FROM blob b WHERE b.store_id = :store_id::uuid AND b.key = k.key)
  AND NOT EXISTS (SELECT FROM blob_leftover l WHERE l.tenant_id = split_part(k.key, '/', 1)::integer
                  AND l.store_id = :store_id::uuid AND l.key = k.key);


-- name: add_leftovers(store_id, keys)!
-- tenant: every (maintenance; the keys begin with their tenant)
-- Make objects that nothing refers to due for removal.
INSERT INTO blob_leftover (tenant_id, store_id, key, remove_at)
SELECT split_part(k.key, '/', 1)::integer, :store_id::uuid, k.key, clock() FROM unnest(:keys::text[]) AS k(key)
WHERE NOT EXISTS (SELECT FROM blob b WHERE b.store_id = :store_id::uuid AND b.key = k.key)
ON CONFLICT DO NOTHING;


-- name: expected_objects(store_id, after, until, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Return the objects that blobs refer to, after one key and up to another. Index: blob_object.
SELECT b.tenant_id, b.id, b.key, b.missing_at IS NOT NULL AS missing FROM blob b
WHERE b.store_id = :store_id::uuid AND b.key > :after::text COLLATE "C" AND (:until::text IS NULL OR b.key <= :until::text COLLATE "C")
ORDER BY b.key LIMIT :limit::integer;


-- name: mark_missing(store_id, key, missing)!
-- tenant: every (maintenance; an object belongs to one blob)
-- Record that the object of a blob is missing, or is back. Locks: the row. Index: blob_object.
UPDATE blob SET missing_at = CASE WHEN :missing::boolean THEN clock() END
WHERE store_id = :store_id::uuid AND key = :key::text AND (missing_at IS NOT NULL) <> :missing::boolean;


-- name: trouble(limit)
-- tenant: every (metrics of the installation)
-- Count blobs whose object is missing, and objects that are due for removal, each up to a limit.
-- Index: blob_missing, blob_leftover_due.
SELECT (SELECT count(*) FROM (SELECT FROM blob WHERE missing_at IS NOT NULL LIMIT :limit::integer) m) AS missing,
       (SELECT count(*) FROM (SELECT FROM blob_leftover WHERE remove_at <= clock() LIMIT :limit::integer) d) AS due;


-- name: begin_upload(tenant_id, id, media_type, filename, limit)
-- Begin an upload in parts, unless the tenant has too many. Index: primary key of blob_upload.
INSERT INTO blob_upload (tenant_id, id, media_type, filename, created_at, expires_at)
SELECT :tenant_id::integer, :id::uuid, :media_type::text, :filename::text, clock(), clock() + interval '1 day'
WHERE (SELECT count(*) FROM blob_upload WHERE tenant_id = :tenant_id::integer AND expires_at > clock()) < :limit::integer
RETURNING id, media_type, filename, created_at, expires_at;


-- name: upload(tenant_id, id)
-- Return an upload in parts that has not expired. Index: primary key of blob_upload.
SELECT id, media_type, filename, created_at, expires_at FROM blob_upload
WHERE tenant_id = :tenant_id AND id = :id AND expires_at > clock();


-- name: parts_of(tenant_id, upload_id)
-- Return the stored parts of an upload, in order. Index: primary key of blob_upload_part.
SELECT number, size_bytes, sha256, store_id, key FROM blob_upload_part
WHERE tenant_id = :tenant_id AND upload_id = :upload_id ORDER BY number;


-- name: bytes_of_others(tenant_id, upload_id, number)
-- Return the bytes of an upload's other parts; nothing if there is no such upload. Index: primary keys.
SELECT (SELECT coalesce(sum(p.size_bytes), 0) FROM blob_upload_part p
        WHERE p.tenant_id = :tenant_id AND p.upload_id = :upload_id AND p.number <> :number)::bigint
FROM blob_upload WHERE tenant_id = :tenant_id AND id = :upload_id AND expires_at > clock();


-- name: keep_part(tenant_id, upload_id, number, size_bytes, sha256, store_id, key)
-- Make a written object a part of an upload, in place of the one of that number, which is then due for removal. Returns the
-- number, or nothing if the upload has ended. Locks: the upload, then rows of blob_leftover. Index: primary keys.
WITH upload AS (
    SELECT expires_at FROM blob_upload
    WHERE tenant_id = :tenant_id::integer AND id = :upload_id::uuid AND expires_at > clock() FOR SHARE
), held AS (
    UPDATE blob_leftover l SET remove_at = u.expires_at + interval '12 hours' FROM upload u
    WHERE l.tenant_id = :tenant_id::integer AND l.store_id = :store_id::uuid AND l.key = :key::text RETURNING 1
), replaced AS (
    UPDATE blob_leftover l SET remove_at = clock() FROM upload u, blob_upload_part p
    WHERE p.tenant_id = :tenant_id::integer AND p.upload_id = :upload_id::uuid AND p.number = :number::integer
      AND l.tenant_id = :tenant_id::integer AND l.store_id = p.store_id AND l.key = p.key
)
INSERT INTO blob_upload_part AS p (tenant_id, upload_id, number, size_bytes, sha256, store_id, key)
SELECT :tenant_id::integer, :upload_id::uuid, :number::integer, :size_bytes::bigint, :sha256::text, :store_id::uuid, :key::text
FROM held
ON CONFLICT (tenant_id, upload_id, number) DO UPDATE
SET size_bytes = excluded.size_bytes, sha256 = excluded.sha256, store_id = excluded.store_id, key = excluded.key
RETURNING p.number;


-- name: end_upload(tenant_id, id)
-- Remove an upload with its parts, whose objects are then due for removal; returns these. Locks: the upload, its parts, rows
-- of blob_leftover. Index: primary keys.
WITH parts AS MATERIALIZED (
    SELECT store_id, key FROM blob_upload_part WHERE tenant_id = :tenant_id::integer AND upload_id = :id::uuid
), gone AS (
    DELETE FROM blob_upload WHERE tenant_id = :tenant_id::integer AND id = :id::uuid
), due AS (
    UPDATE blob_leftover l SET remove_at = clock() FROM parts p
    WHERE l.tenant_id = :tenant_id::integer AND l.store_id = p.store_id AND l.key = p.key
)
SELECT store_id, key FROM parts;


-- name: expire_uploads(limit)!
-- tenant: every (maintenance; the rows carry their tenant)
-- Remove uploads in parts that were not completed in time; the objects of their parts are leftovers. Locks: their rows,
-- skipping locked ones. Index: blob_upload_expiry.
WITH old AS MATERIALIZED (
    SELECT tenant_id, id FROM blob_upload WHERE expires_at <= clock()
    ORDER BY expires_at LIMIT :limit::integer FOR UPDATE SKIP LOCKED
)
DELETE FROM blob_upload u USING old o WHERE u.tenant_id = o.tenant_id AND u.id = o.id;
