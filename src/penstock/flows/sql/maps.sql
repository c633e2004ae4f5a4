-- Maps: the items of one step, as blocks. Loaded by penstock.flows.sql.maps.
-- The rules at the head of penstock/jobs/sql/queries.sql hold here too.


-- name: state(tenant_id, run_id)
-- Returns the progress of a map. Index: primary key of flow_block, all rows of the map.
SELECT coalesce(sum(items), 0)::int AS items, coalesce(sum(unfinished), 0)::int AS running, coalesce(sum(failed), 0)::int AS failed,
       count(*) FILTER (WHERE unfinished IS NULL)::int AS left, max(items)::int AS largest
FROM flow_block WHERE tenant_id = :tenant_id AND run_id = :run_id;


-- name: next_blocks(tenant_id, run_id, limit)
-- Returns the next blocks that have not begun, with the inputs of their items. Index: primary key of flow_block.
SELECT first, items, inputs FROM flow_block
WHERE tenant_id = :tenant_id AND run_id = :run_id AND unfinished IS NULL ORDER BY first LIMIT :limit::int;


-- name: pump(tenant_id, run_id, epoch, firsts, items, ids, series_id, lane_id, inputs, sizes, attempts, timeout, key, are_runs)
-- Begins blocks; see flow_pump(). Locks: the lease, the gate, the blocks.
SELECT flow_pump(:tenant_id, :run_id, :epoch, :firsts, :items, :ids, :series_id, :lane_id, :inputs, :sizes, :attempts, :timeout,
                 :key, :are_runs) AS first;


-- name: outcomes(tenant_id, run_id, from_item, limit)
-- Returns the outcomes of the items of a map, in order. Index: job_parent, primary key of done.
SELECT -1 - j.step_no AS item, d.status, d.result, d.error_category, d.error_message
FROM (
    SELECT id, step_no FROM job WHERE tenant_id = :tenant_id AND parent_id = :run_id AND step_no <= -1 - :from_item::int
    ORDER BY step_no DESC LIMIT :limit::int
) j
CROSS JOIN LATERAL (
    SELECT status, result, error_category, error_message FROM done WHERE tenant_id = :tenant_id AND job_id = j.id OFFSET 0
) d
ORDER BY j.step_no DESC;


-- name: first_failure(tenant_id, run_id, limit)
-- Returns the first item of a map that has failed. Index: job_parent, primary key of done.
SELECT o.* FROM (
    SELECT id, step_no FROM job WHERE tenant_id = :tenant_id AND parent_id = :run_id AND step_no < 0
    ORDER BY step_no DESC LIMIT :limit::int
) j
CROSS JOIN LATERAL (
    SELECT -1 - j.step_no AS item, status, error_category, error_message
    FROM done WHERE tenant_id = :tenant_id AND job_id = j.id AND status <> 'completed' OFFSET 0
) o
ORDER BY j.step_no DESC LIMIT 1;


-- name: report(tenant_id, run_id, epoch)!
-- Stores the counts of a map's items as an event of its progress, if the lease holds. Indexes: primary keys of lease and flow_block.
INSERT INTO event (tenant_id, at, kind, job_id, series_ids, epochs, attempts, weight, data)
SELECT :tenant_id, clock(), 'job.progress', l.job_id, ARRAY[l.series_id], ARRAY[l.epoch], ARRAY[l.attempt],
       octet_length(c.counts::text), c.counts
FROM (SELECT * FROM lease WHERE tenant_id = :tenant_id AND job_id = :run_id AND epoch = :epoch) l
CROSS JOIN LATERAL (
    SELECT json_build_object('items', b.items, 'waiting', b.waiting, 'running', b.running,
                             'completed', b.items - b.waiting - b.running - b.failed, 'failed', b.failed) AS counts
    FROM (
        SELECT coalesce(sum(items), 0) AS items, coalesce(sum(items) FILTER (WHERE unfinished IS NULL), 0) AS waiting,
               coalesce(sum(unfinished), 0) AS running, coalesce(sum(failed), 0) AS failed
        FROM flow_block WHERE tenant_id = :tenant_id AND run_id = :run_id
    ) b
) c;
