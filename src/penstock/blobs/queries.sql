-- Uploaded files and their parts. Loaded by penstock.blobs.store.
--
-- An upload may last twelve hours; parts that belong to no blob are removed after a day. A statement takes seconds, so parts
-- of an upload that still continues are never removed.

-- name: put_part(tenant_id, blob_id, number, data)
-- Store one part; later ones only while the upload is young enough. Returns its number, or nothing. Takes no lock that
-- another statement could hold. Index: primary key of blob_part.
INSERT INTO blob_part (tenant_id, blob_id, number, data, created_at)
SELECT :tenant_id::integer, :blob_id::uuid, :number::integer, :data::bytea, clock()
WHERE :number::integer = 0
   OR EXISTS (SELECT FROM blob_part p WHERE p.tenant_id = :tenant_id::integer AND p.blob_id = :blob_id::uuid
              AND p.number = 0 AND p.created_at > clock() - interval '12 hours')
RETURNING number;


-- name: finish(tenant_id, id, media_type, filename, size_bytes, sha256, keep_seconds)
-- Make a blob of its parts, if the upload is young enough. Index: primary key of blob_part.
INSERT INTO blob (tenant_id, id, media_type, filename, size_bytes, sha256, created_at, expires_at)
SELECT :tenant_id::integer, :id::uuid, :media_type::text, :filename::text, :size_bytes::bigint, :sha256::text, clock(),
       clock() + make_interval(secs => :keep_seconds::float8)
WHERE EXISTS (SELECT FROM blob_part p WHERE p.tenant_id = :tenant_id::integer AND p.blob_id = :id::uuid
              AND p.number = 0 AND p.created_at > clock() - interval '12 hours')
RETURNING id, media_type, filename, size_bytes, sha256, created_at, expires_at;


-- name: find(tenant_id, id)
-- Return a blob that has not expired. Index: primary key of blob.
SELECT id, media_type, filename, size_bytes, sha256, created_at, expires_at
FROM blob WHERE tenant_id = :tenant_id AND id = :id AND expires_at > clock();


-- name: read_part(tenant_id, blob_id, number, first, count)
-- Return bytes of one part. It is stored uncompressed, so that only those are read. Index: primary key of blob_part.
SELECT substring(data FROM :first::integer + 1 FOR :count::integer)
FROM blob_part WHERE tenant_id = :tenant_id AND blob_id = :blob_id AND number = :number;


-- name: remove(tenant_id, id)
-- Remove a blob; its parts stay until drop_parts. Returns its id, or nothing. Locks: the row.
DELETE FROM blob WHERE tenant_id = :tenant_id AND id = :id AND expires_at > clock() RETURNING id;


-- name: drop_parts(tenant_id, blob_id, limit)
-- Remove parts that belong to no blob, highest numbers first; returns how many. Locks: those parts, in the same order.
WITH last AS MATERIALIZED (
    SELECT p.number FROM blob_part p
    WHERE p.tenant_id = :tenant_id AND p.blob_id = :blob_id::uuid
      AND NOT EXISTS (SELECT FROM blob b WHERE b.tenant_id = :tenant_id AND b.id = :blob_id::uuid)
    ORDER BY p.number DESC LIMIT :limit::integer FOR UPDATE OF p
), gone AS (
    DELETE FROM blob_part p USING last l
    WHERE p.tenant_id = :tenant_id AND p.blob_id = :blob_id::uuid AND p.number = l.number RETURNING 1
)
SELECT count(*) FROM gone;


-- name: expire(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Remove expired blobs, the oldest first; returns which. Locks: their rows, skipping locked ones.
-- Index: blob_expiry.
WITH old AS MATERIALIZED (
    SELECT tenant_id, id FROM blob WHERE expires_at <= clock()
    ORDER BY expires_at LIMIT :limit::integer FOR UPDATE SKIP LOCKED
)
DELETE FROM blob b USING old o WHERE b.tenant_id = o.tenant_id AND b.id = o.id RETURNING b.tenant_id, b.id;


-- name: abandoned(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Return uploads that never became a blob, and removed blobs whose parts are still stored, the oldest first. Checks each
-- blob that is older than a day once. Index: blob_part_first.
SELECT p.tenant_id, p.blob_id AS id FROM blob_part p
WHERE p.number = 0 AND p.created_at <= clock() - interval '1 day'
  AND NOT EXISTS (SELECT FROM blob b WHERE b.tenant_id = p.tenant_id AND b.id = p.blob_id OFFSET 0)
ORDER BY p.created_at LIMIT :limit::integer;
