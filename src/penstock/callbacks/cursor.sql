-- Statements that turn events into deliveries. Loaded by penstock.callbacks.cursors.


-- name: cursors_behind(limit)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Returns the tenants with endpoints that have events after their cursor. Indexes: primary keys.
SELECT c.tenant_id FROM callback_cursor c
CROSS JOIN LATERAL (SELECT position FROM event_position WHERE tenant_id = c.tenant_id ORDER BY position DESC LIMIT 1) e
WHERE e.position > c.position LIMIT :limit;


-- name: any_tenant()
-- tenant: every (only whether there is any)
SELECT EXISTS (SELECT FROM callback_cursor);


-- name: lock_progress(tenant_id, limit)
-- Locks a tenant's cursor until the transaction ends, unless another transaction has it. Returns its position, the position
-- at which a page of events ends, that of the last event, and the one up to which retention has dropped events.
-- Locks: the row. Indexes: primary keys.
SELECT c.position, c.kinds, p.page_end, e.last, coalesce(f.position, 0) AS floor
FROM (SELECT position, kinds FROM callback_cursor WHERE tenant_id = :tenant_id FOR UPDATE SKIP LOCKED) c
CROSS JOIN LATERAL (
    SELECT max(position) AS page_end
    FROM (SELECT position FROM event_position WHERE tenant_id = :tenant_id AND position > c.position
          ORDER BY position LIMIT :limit::int) n
) p
CROSS JOIN LATERAL (
    SELECT max(position) AS last
    FROM (SELECT position FROM event_position WHERE tenant_id = :tenant_id ORDER BY position DESC LIMIT 1) n
) e
LEFT JOIN LATERAL (SELECT position FROM event_floor WHERE tenant_id = :tenant_id OFFSET 0) f ON true;


-- name: listeners(tenant_id)
-- Returns the registered endpoints that get events. Index: primary key of callback_endpoint.
SELECT id, events, since FROM callback_endpoint
WHERE tenant_id = :tenant_id AND digest IS NULL AND disabled_at IS NULL AND removed_at IS NULL;


-- name: any_job(tenant_id)
-- Returns whether any job of the tenant has a callback. Index: primary key of callback_job.
SELECT EXISTS (SELECT FROM callback_job WHERE tenant_id = :tenant_id);


-- name: wanted_events(tenant_id, behind, upto, kinds, max_bytes)
-- Returns the events of some types in order of position, after behind and up to upto, but no more once their data exceeds
-- max_bytes (the row that exceeds it is still returned). available is their number without that bound.
-- Indexes: primary key of event_position, event_order.
SELECT * FROM (
    SELECT p.position, e.*, count(*) OVER () AS available,
           sum(coalesce(e.weight, 0) + 64 * coalesce(cardinality(e.job_ids), 1)) OVER (ORDER BY p.position) AS reached,
           coalesce(e.weight, 0) + 64 * coalesce(cardinality(e.job_ids), 1) AS size
    FROM (
        SELECT position, event_id, at FROM event_position
        WHERE tenant_id = :tenant_id AND position > :behind::bigint AND position <= :upto::bigint ORDER BY position OFFSET 0
    ) p
    CROSS JOIN LATERAL (
        SELECT * FROM event
        WHERE tenant_id = :tenant_id AND at = p.at AND id = p.event_id AND kind LIKE ANY (:kinds::text[]) OFFSET 0
    ) e
) sized
WHERE reached - size <= :max_bytes::bigint ORDER BY position;


-- name: endpoints_of_jobs(tenant_id, job_ids)
-- Returns the endpoints that the submissions of jobs named and those of the marketplace, with the types of events that they want. Indexes: primary keys.
SELECT j.job_id, e.id, e.events
FROM unnest(:job_ids::uuid[]) AS w(job_id)
CROSS JOIN LATERAL (
    SELECT job_id, ARRAY[endpoint_id, marketplace_id] AS endpoint_ids FROM callback_job
    WHERE tenant_id = :tenant_id AND job_id = w.job_id OFFSET 0
) j
CROSS JOIN LATERAL (
    SELECT id, events FROM callback_endpoint
    WHERE tenant_id = :tenant_id AND id = ANY (j.endpoint_ids) AND disabled_at IS NULL AND removed_at IS NULL OFFSET 0
) e;


-- name: add(tenant_id, endpoint_ids, positions, places, marks, kinds, sources, subjects, ats, data)
-- Adds deliveries, and makes their endpoints due; the caller has locked the cursor. Returns the endpoints.
-- Locks: rows of callback_state, in the order of their endpoints.
WITH new AS MATERIALIZED (
    SELECT * FROM unnest(:endpoint_ids::uuid[], :positions::bigint[], :places::int[], :marks::bigint[], :kinds::text[],
                         :sources::text[], :subjects::text[], :ats::timestamptz[], :data::json[])
        AS n(endpoint_id, position, place, mark, kind, source, subject, at, data)
), added AS (
    INSERT INTO callback_ready (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data)
    SELECT :tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data FROM new
)
INSERT INTO callback_state AS s (tenant_id, endpoint_id, due_at, arrivals, waiting)
SELECT :tenant_id, endpoint_id, clock(), 1, count(*) FROM new GROUP BY endpoint_id ORDER BY endpoint_id
ON CONFLICT (tenant_id, endpoint_id) DO UPDATE
SET waiting = s.waiting + excluded.waiting, arrivals = s.arrivals + 1,
    due_at = CASE WHEN s.lease_until > clock() THEN s.due_at
                  ELSE least(s.due_at, greatest(clock(), s.rest_until)) END
RETURNING s.endpoint_id;


-- name: advance(tenant_id, position)!
-- Moves a tenant's cursor, which the caller has locked.
UPDATE callback_cursor SET position = :position::bigint WHERE tenant_id = :tenant_id;
