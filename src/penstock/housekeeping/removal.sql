-- The deletion of tenants. Loaded by penstock.housekeeping.tenant_removal. The functions are in the migration of access.

-- name: deleting()
-- tenant: every (maintenance; the rows are tenants)
-- Return the tenants to delete, those requested first first. "overdue": running jobs have had a minute to end. Index:
-- tenant_deleting.
SELECT id, name, deletes_usage, clock() >= deleting_since + interval '1 minute' AS overdue
FROM tenant WHERE deleting_since IS NOT NULL ORDER BY deleting_since, id;


-- name: stop_jobs(tenant_id)
-- Request that the running jobs of a tenant stop. Returns how many got the request for the first time, and whether any job
-- runs. Locks: the leases in job id order. Index: primary key of lease.
WITH held AS MATERIALIZED (
    SELECT job_id FROM lease WHERE tenant_id = :tenant_id AND cancel_requested_at IS NULL ORDER BY job_id FOR UPDATE
), requested AS (
    UPDATE lease SET cancel_requested_at = clock()
    WHERE tenant_id = :tenant_id AND job_id = ANY (ARRAY(SELECT job_id FROM held)) RETURNING job_id
)
SELECT (SELECT count(*) FROM requested) AS requested, EXISTS (SELECT FROM lease WHERE tenant_id = :tenant_id) AS running;


-- name: leaves()
-- tenant: every (it names tables)
-- Return the tables and partitions with rows of tenants, in the order in which rows can be deleted.
SELECT leaf, root FROM tenant_leaves();


-- name: delete_some(tenant_id, leaf, page)
-- Delete some of a tenant's rows from a table or partition; see delete_of_tenant.
SELECT deleted, next_page FROM delete_of_tenant(:tenant_id::integer, :leaf::text, :page::bigint);


-- name: unbooked(tenant_id)
-- Return whether usage of a tenant waits to be rolled up. Scans usage_delta, which is small.
SELECT EXISTS (SELECT FROM usage_delta WHERE tenant_id = :tenant_id);


-- name: finish(tenant_id)
-- Delete a tenant that owns nothing any longer, and keep its name for its sums of usage; returns nothing if another process
-- has done so. A row that refers to it makes this fail. Locks: the tenant. Index: primary key.
WITH gone AS (
    DELETE FROM tenant WHERE id = :tenant_id AND deleting_since IS NOT NULL RETURNING id, name, deletes_usage
), kept AS (
    INSERT INTO former_tenant (id, name, deleted_at)
    SELECT id, name || '@' || to_char(clock() AT TIME ZONE 'UTC', 'YYYY-MM-DD'), clock() FROM gone WHERE NOT deletes_usage
)
SELECT name, deletes_usage FROM gone;
