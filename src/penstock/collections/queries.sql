-- Collections and their items. Loaded by penstock.collections.store. The functions are in the migration.

-- name: create(tenant_id, name, dimension, metric)
-- Create a collection; returns it, or nothing if there is one of that name. Index: collection_name.
INSERT INTO collection (tenant_id, name, dimension, metric, created_at, changed_at)
SELECT :tenant_id::integer, :name::text, :dimension::integer, :metric::text, clock(), clock()
ON CONFLICT (tenant_id, name) WHERE removed_at IS NULL DO NOTHING
RETURNING id, name, dimension, metric, items, created_at, changed_at;


-- name: lock_tenant(tenant_id)!
-- Lock a tenant, so that its collections can be counted. Index: primary key.
SELECT 1 FROM tenant WHERE id = :tenant_id::integer FOR NO KEY UPDATE;


-- name: number_of(tenant_id)
-- Return how many collections a tenant has. Index: collection_name.
SELECT count(*) FROM collection WHERE tenant_id = :tenant_id AND removed_at IS NULL;


-- name: find(tenant_id, name)
-- Return a collection. Index: collection_name.
SELECT id, name, dimension, metric, items, created_at, changed_at FROM collection
WHERE tenant_id = :tenant_id AND name = :name AND removed_at IS NULL;


-- name: lock(tenant_id, name)
-- Return a collection to write to; writes to one collection follow one another. Locks: the collection. Index: collection_name.
SELECT id, name, dimension, metric, items, created_at, changed_at FROM collection
WHERE tenant_id = :tenant_id AND name = :name AND removed_at IS NULL FOR NO KEY UPDATE;


-- name: page(tenant_id, after, limit)
-- Return collections by name. Index: collection_name.
SELECT id, name, dimension, metric, items, created_at, changed_at FROM collection
WHERE tenant_id = :tenant_id AND name > :after AND removed_at IS NULL ORDER BY name LIMIT :limit;


-- name: remove(tenant_id, name)
-- Mark a collection as removed; returns its name, or nothing. Locks: the collection. Index: collection_name.
UPDATE collection SET removed_at = clock() WHERE tenant_id = :tenant_id AND name = :name AND removed_at IS NULL RETURNING name;


-- name: upsert(tenant_id, collection_id, dimension, keys, groups, attributes, blobs, vectors)
-- Write items, in the order of their keys; vectors holds the numbers of all. Returns how many were new. The caller holds the
-- collection's lock. Index: primary key.
WITH written AS (
    INSERT INTO collection_item AS i (tenant_id, collection_id, key, group_name, attributes, blob_id, vector, changed_at)
    SELECT :tenant_id::integer, :collection_id::bigint, n.key, n.group_name, n.attributes::jsonb, n.blob_id,
           (:vectors::real[])[(n.place - 1) * :dimension::integer + 1 : n.place * :dimension::integer], clock()
    FROM unnest(:keys::text[], :groups::text[], :attributes::json[], :blobs::uuid[])
         WITH ORDINALITY AS n(key, group_name, attributes, blob_id, place)
    ORDER BY n.key COLLATE "C"
    ON CONFLICT (tenant_id, collection_id, key) DO UPDATE
    SET group_name = excluded.group_name, attributes = excluded.attributes, blob_id = excluded.blob_id, vector = excluded.vector,
        changed_at = excluded.changed_at
    RETURNING xmax = 0 AS new
)
SELECT count(*) FILTER (WHERE new) FROM written;


-- name: delete_keys(tenant_id, collection_id, keys)
-- Delete items by key; returns how many. The caller holds the collection's lock. Index: primary key.
WITH gone AS (
    DELETE FROM collection_item WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND key = ANY (:keys::text[]) RETURNING 1
)
SELECT count(*) FROM gone;


-- name: delete_group(tenant_id, collection_id, group_name, limit)
-- Delete some items of a group; returns how many. The caller holds the collection's lock. Index: collection_item_group.
WITH gone AS (
    DELETE FROM collection_item WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND key = ANY (ARRAY(
        SELECT key FROM collection_item
        WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND group_name = :group_name AND group_name <> '' LIMIT :limit))
    RETURNING 1
)
SELECT count(*) FROM gone;


-- name: delete_having(tenant_id, collection_id, attributes, limit)
-- Delete some items whose attributes contain these; returns how many. It reads the collection. The caller holds the collection's
-- lock. Index: primary key.
WITH gone AS (
    DELETE FROM collection_item WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND key = ANY (ARRAY(
        SELECT key FROM collection_item
        WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND attributes @> :attributes::json::jsonb LIMIT :limit))
    RETURNING 1
)
SELECT count(*) FROM gone;


-- name: count(tenant_id, collection_id, change)
-- Count items that were added or deleted; returns how many the collection has. The caller holds its lock. Index: primary key.
UPDATE collection SET items = items + :change::bigint, changed_at = clock()
WHERE tenant_id = :tenant_id AND id = :collection_id RETURNING items;


-- name: lock_quota(tenant_id)
-- Return the limit of the tenant's stored items, if a quota limits them; writers that follow wait. Locks: the quota, after a
-- collection. Index: primary key of quota.
SELECT id, most FROM quota WHERE tenant_id = :tenant_id AND measure = 'stored_items' FOR NO KEY UPDATE;


-- name: stored_items(tenant_id)
-- Return how many items the tenant's collections have. The caller holds the quota's lock. Index: primary key of collection.
SELECT coalesce(sum(items), 0)::bigint FROM collection WHERE tenant_id = :tenant_id AND removed_at IS NULL;


-- name: files(tenant_id, collection_id, keys, group_name, attributes, limit)
-- Return the blobs that items name, of those that a deletion selects. Index: primary key.
SELECT DISTINCT blob_id FROM collection_item
WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND blob_id IS NOT NULL
  AND (:keys::text[] IS NULL OR key = ANY (:keys::text[])) AND (:group_name::text IS NULL OR group_name = :group_name::text)
  AND (:attributes::json IS NULL OR attributes @> :attributes::json::jsonb)
LIMIT :limit;


-- name: unknown_blobs(tenant_id, ids)
-- Return which of these blobs the tenant does not have. Index: primary key of blob.
SELECT w.id FROM unnest(:ids::uuid[]) AS w(id)
WHERE NOT EXISTS (SELECT FROM blob b WHERE b.tenant_id = :tenant_id AND b.id = w.id OFFSET 0);


-- name: items(tenant_id, collection_id, after, limit, with_vectors)
-- Return items by key. Index: primary key.
SELECT key, group_name, attributes::json, blob_id, CASE WHEN :with_vectors THEN vector END AS vector FROM collection_item
WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND key > :after ORDER BY key LIMIT :limit;


-- name: items_of_group(tenant_id, collection_id, group_name, after, limit, with_vectors)
-- Return items of a group by key. Index: collection_item_group.
SELECT key, group_name, attributes::json, blob_id, CASE WHEN :with_vectors THEN vector END AS vector FROM collection_item
WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND group_name = :group_name AND group_name <> '' AND key > :after
ORDER BY key LIMIT :limit;


-- name: items_by_key(tenant_id, collection_id, keys, with_vectors)
-- Return items with these keys. Index: primary key.
SELECT key, group_name, attributes::json, blob_id, CASE WHEN :with_vectors THEN vector END AS vector FROM collection_item
WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND key = ANY (:keys::text[]) ORDER BY key;


-- name: search(tenant_id, collection_id, vector, k, group_name, attributes, exact, with_vectors)
-- Return the nearest items; see collection_search. Index: HNSW, or the primary key.
SELECT key, distance, group_name, attributes, blob_id, vector, indexed
FROM collection_search(:tenant_id::integer, :collection_id::bigint, :vector::real[], 
                       :k::integer, :group_name::text, :attributes::json::jsonb, :exact::boolean, :with_vectors::boolean);


-- name: hold_lease(tenant_id, job_id, epoch)
-- Return whether an attempt still has its lease, which it then keeps until the end of the transaction. Locks: the lease, before
-- any collection. Index: primary key of lease.
SELECT 1 FROM lease WHERE tenant_id = :tenant_id AND job_id = :job_id AND epoch = :epoch FOR KEY SHARE;


-- name: outcome(tenant_id, job_id)
-- Return what a job has written, or nothing. Index: primary key.
SELECT outcome FROM collection_write WHERE tenant_id = :tenant_id AND job_id = :job_id;


-- name: record(tenant_id, job_id, outcome)!
-- Store what a job has written.
INSERT INTO collection_write (tenant_id, job_id, outcome, at) SELECT :tenant_id::integer, :job_id::uuid, :outcome::json, clock();


-- name: forget_writes(keep, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Delete what jobs wrote longer ago than that, a limited number at a time; returns how many. Index: collection_write_at.
WITH gone AS (
    DELETE FROM collection_write WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM collection_write WHERE at < clock() - :keep::interval ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT count(*) FROM gone;


-- name: removed()
-- tenant: every (maintenance; the rows carry their tenant)
-- Return a collection that was removed. Index: collection_removed.
SELECT tenant_id, id FROM collection WHERE removed_at IS NOT NULL ORDER BY removed_at LIMIT 1;


-- name: delete_some(tenant_id, collection_id, limit)
-- Delete some items of a removed collection; returns how many. Locks: the items. Index: primary key.
WITH gone AS (
    DELETE FROM collection_item WHERE tenant_id = :tenant_id AND collection_id = :collection_id AND key = ANY (ARRAY(
        SELECT key FROM collection_item WHERE tenant_id = :tenant_id AND collection_id = :collection_id ORDER BY key LIMIT :limit))
    RETURNING 1
)
SELECT count(*) FROM gone;


-- name: delete_collection(tenant_id, collection_id)!
-- Delete a removed collection that has no items. Index: primary key.
DELETE FROM collection WHERE tenant_id = :tenant_id AND id = :collection_id AND removed_at IS NOT NULL;


-- name: enable_vector()
-- tenant: every (it concerns the database)
-- Install pgvector if that is possible; see collection_enable_vector.
SELECT collection_enable_vector();


-- name: index_work(min_items, max_indexes)
-- tenant: every (maintenance; it returns a statement)
-- Return the next statement that brings the HNSW indexes in step; see collection_index_work.
SELECT collection_index_work(:min_items::bigint, :max_indexes::integer);


-- name: lock_indexing(id)
-- tenant: every (a lock of the database)
-- Take the lock of the process that maintains the indexes, until the connection is closed; returns whether it was free.
SELECT pg_try_advisory_lock(:id::bigint);
