-- Statements of the dispatchers of callbacks. Loaded by penstock.callbacks.deliveries.
--
-- They serve all tenants. An endpoint belongs to the dispatcher that has its lease: every statement of a dispatcher names
-- the epoch of the lease, and changes nothing if the endpoint has a newer one.


-- name: lease(quick, full, limit, lease_seconds, holder)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Leases endpoints that are due, those that have waited longest first, except those of the tenants in full. Those of suspended
-- tenants come back after a minute.
-- Locks: the rows taken, skipping locked ones. Index: callback_state_due.
WITH due AS MATERIALIZED (
    SELECT s.ctid AS row_tid, s.tenant_id FROM callback_state s
    WHERE s.quick = :quick::bool AND s.due_at <= clock() AND s.tenant_id <> ALL (:full::int[]) ORDER BY s.due_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
), owned AS MATERIALIZED (
    SELECT d.row_tid, t.suspended_at IS NOT NULL AS suspended FROM due d JOIN tenant t ON t.id = d.tenant_id
), taken AS (
    UPDATE callback_state s
    SET epoch = nextval('epoch'),
        lease_until = CASE WHEN o.suspended THEN NULL ELSE clock() + make_interval(secs => :lease_seconds) END,
        holder = CASE WHEN NOT o.suspended THEN :holder::int END,
        due_at = clock() + CASE WHEN o.suspended THEN interval '1 minute' ELSE make_interval(secs => :lease_seconds) END
    FROM owned o
    WHERE s.ctid = ANY (ARRAY(SELECT row_tid FROM owned)) AND s.ctid = o.row_tid
    RETURNING s.tenant_id, s.endpoint_id, s.epoch, s.failures, o.suspended
)
SELECT * FROM taken;


-- name: appear()
-- tenant: every (no rows)
-- Takes the lock that shows that a dispatcher lives, for the session; returns its number.
SELECT n.number FROM (SELECT nextval('callback_dispatcher')::int AS number OFFSET 0) n
CROSS JOIN LATERAL (SELECT pg_advisory_lock(hashtext('penstock.callback_dispatcher'), n.number) OFFSET 0) taken;


-- name: free_abandoned(holder)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Makes due what dispatchers have leased that are gone: their locks are free. Returns the number of other dispatchers that hold
-- leases. Locks: the rows that are freed, skipping locked ones. Index: callback_state_holder.
WITH RECURSIVE known AS (
    (SELECT holder FROM callback_state WHERE holder IS NOT NULL ORDER BY holder LIMIT 1)
    UNION ALL
    SELECT (SELECT s.holder FROM callback_state s WHERE s.holder > k.holder ORDER BY s.holder LIMIT 1) FROM known k WHERE k.holder IS NOT NULL
), others AS MATERIALIZED (
    SELECT k.holder FROM known k WHERE k.holder IS NOT NULL AND k.holder <> :holder::int
), gone AS MATERIALIZED (
    SELECT o.holder FROM others o
    EXCEPT
    SELECT objid::int FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND EXISTS (SELECT FROM others)
      AND classid = (hashtext('penstock.callback_dispatcher')::bigint & 4294967295)::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), abandoned AS MATERIALIZED (
    SELECT ctid AS row_tid FROM callback_state WHERE holder = ANY (ARRAY(SELECT holder FROM gone)) FOR UPDATE SKIP LOCKED
), freed AS (
    UPDATE callback_state SET lease_until = NULL, holder = NULL, due_at = clock() WHERE ctid = ANY (ARRAY(SELECT row_tid FROM abandoned))
)
SELECT count(*)::int FROM others;


-- name: next_due()
-- tenant: every (only a time)
-- Returns the seconds until the next endpoint is due; null if none is. Index: callback_state_due.
SELECT extract(epoch FROM min(due_at) - clock())::float8 FROM (
    (SELECT due_at FROM callback_state WHERE quick AND due_at IS NOT NULL ORDER BY due_at LIMIT 1)
    UNION ALL
    (SELECT due_at FROM callback_state WHERE NOT quick AND due_at IS NOT NULL ORDER BY due_at LIMIT 1)
) d;


-- name: renew(tenant_ids, endpoint_ids, epochs, lease_seconds)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Extends leases; returns those that still hold. Locks: the rows, in order.
WITH held AS MATERIALIZED (
    SELECT s.row_tid FROM (
        SELECT * FROM unnest(:tenant_ids::int[], :endpoint_ids::uuid[], :epochs::bigint[]) AS w(tenant_id, endpoint_id, epoch)
        ORDER BY tenant_id, endpoint_id
    ) w
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_state
        WHERE tenant_id = w.tenant_id AND endpoint_id = w.endpoint_id AND epoch = w.epoch FOR UPDATE
    ) s
)
UPDATE callback_state
SET lease_until = clock() + make_interval(secs => :lease_seconds), due_at = clock() + make_interval(secs => :lease_seconds)
WHERE ctid = ANY (ARRAY(SELECT row_tid FROM held))
RETURNING tenant_id, endpoint_id;


-- name: read_endpoint(tenant_id, endpoint_id, epoch)
-- Returns an endpoint whose lease the caller has, or nothing if the lease no longer holds. Indexes: primary keys.
SELECT e.url, e.sealed, e.secret_id, CASE WHEN e.previous_until > clock() THEN e.previous_sealed END AS previous_sealed,
       e.disabled_at IS NOT NULL OR e.removed_at IS NOT NULL AS stopped, t.suspended_at IS NOT NULL AS suspended, s.arrivals
FROM callback_state s
CROSS JOIN LATERAL (SELECT * FROM callback_endpoint WHERE tenant_id = :tenant_id AND id = s.endpoint_id OFFSET 0) e
JOIN tenant t ON t.id = s.tenant_id
WHERE s.tenant_id = :tenant_id AND s.endpoint_id = :endpoint_id AND s.epoch = :epoch;


-- name: read_ready(tenant_id, endpoint_id, position, place, limit, max_bytes)
-- Returns an endpoint's deliveries that were not tried yet, after one of them, in order; blocked are those whose subject has an
-- earlier delivery in callback_later. No more are returned once their data exceeds max_bytes. Indexes: primary key, callback_later_subject.
SELECT n.*, EXISTS (
           SELECT FROM callback_later l
           WHERE l.tenant_id = :tenant_id AND l.endpoint_id = :endpoint_id AND l.subject = n.subject OFFSET 0) AS blocked
FROM (
    SELECT r.*, octet_length(r.data::text) AS size, sum(octet_length(r.data::text)) OVER (ORDER BY r.position, r.place) AS reached
    FROM (
        SELECT position, place, mark, kind, source, subject, at, data FROM callback_ready
        WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND (position, place) > (:position::bigint, :place::int)
        ORDER BY position, place LIMIT :limit::int
    ) r
) n
WHERE n.reached - n.size <= :max_bytes::bigint ORDER BY n.position, n.place;


-- name: read_later(tenant_id, endpoint_id, limit, max_bytes)
-- Returns an endpoint's deliveries that are due again, except those that wait for another one of the same subject.
-- Indexes: callback_later_due, callback_later_subject.
SELECT n.* FROM (
    SELECT r.*, octet_length(r.data::text) AS size,
           sum(octet_length(r.data::text)) OVER (ORDER BY r.due_at, r.position, r.place) AS reached
    FROM (
        SELECT position, place, mark, kind, source, subject, at, data, tries, attempts, due_at FROM callback_later l
        WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND due_at <= clock()
          AND NOT EXISTS (
              SELECT FROM callback_later e
              WHERE e.tenant_id = :tenant_id AND e.endpoint_id = :endpoint_id AND e.subject = l.subject
                AND (e.position, e.place) < (l.position, l.place) OFFSET 0)
        ORDER BY due_at LIMIT :limit::int
    ) r
) n
WHERE n.reached - n.size <= :max_bytes::bigint ORDER BY n.due_at, n.position, n.place;


-- name: record(tenant_ids, endpoint_ids, epochs, positions, places, results, delays, tries, attempts)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Records outcomes of deliveries: they have ended (delivered, dead), or wait for their next attempt (again), or wait for
-- another one of their subject (behind). Deliveries whose lease no longer holds, or that no longer exist, are not returned.
-- Locks: the rows of callback_state, then those of the deliveries, in order. Indexes: primary keys.
WITH handed AS MATERIALIZED (
    SELECT * FROM unnest(:tenant_ids::int[], :endpoint_ids::uuid[], :epochs::bigint[], :positions::bigint[], :places::int[],
                         :results::text[], :delays::float8[], :tries::smallint[], :attempts::json[])
        AS h(tenant_id, endpoint_id, epoch, position, place, result, delay, tries, attempts)
), held AS MATERIALIZED (
    SELECT s.* FROM (SELECT DISTINCT tenant_id, endpoint_id, epoch FROM handed ORDER BY tenant_id, endpoint_id) w
    CROSS JOIN LATERAL (
        SELECT tenant_id, endpoint_id FROM callback_state
        WHERE tenant_id = w.tenant_id AND endpoint_id = w.endpoint_id AND epoch = w.epoch FOR UPDATE
    ) s
), valid AS MATERIALIZED (
    SELECT h.* FROM handed h JOIN held s ON s.tenant_id = h.tenant_id AND s.endpoint_id = h.endpoint_id
    ORDER BY h.tenant_id, h.endpoint_id, h.position, h.place
), in_ready AS MATERIALIZED (
    SELECT r.row_tid FROM valid v
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_ready
        WHERE tenant_id = v.tenant_id AND endpoint_id = v.endpoint_id AND position = v.position AND place = v.place FOR UPDATE
    ) r
), in_later AS MATERIALIZED (
    SELECT r.row_tid, v.result, v.delay, v.tries, v.attempts FROM valid v
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_later
        WHERE tenant_id = v.tenant_id AND endpoint_id = v.endpoint_id AND position = v.position AND place = v.place FOR UPDATE
    ) r
), from_ready AS (
    DELETE FROM callback_ready WHERE ctid = ANY (ARRAY(SELECT row_tid FROM in_ready)) RETURNING *
), from_later AS (
    DELETE FROM callback_later WHERE ctid = ANY (ARRAY(SELECT row_tid FROM in_later WHERE result IN ('delivered', 'dead')))
    RETURNING tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data
), again AS (
    UPDATE callback_later l SET due_at = clock() + make_interval(secs => i.delay), tries = i.tries, attempts = i.attempts
    FROM in_later i
    WHERE l.ctid = ANY (ARRAY(SELECT row_tid FROM in_later WHERE result = 'again')) AND l.ctid = i.row_tid
    RETURNING l.tenant_id, l.endpoint_id, l.position, l.place
), moved AS MATERIALIZED (
    SELECT m.*, v.result, v.delay, v.tries, v.attempts
    FROM (SELECT * FROM from_ready UNION ALL SELECT * FROM from_later) m
    JOIN valid v ON v.tenant_id = m.tenant_id AND v.endpoint_id = m.endpoint_id AND v.position = m.position AND v.place = m.place
), kept AS (
    INSERT INTO callback_later (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, due_at, tries, attempts,
                                data)
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, clock() + make_interval(secs => delay), tries,
           attempts, data
    FROM moved WHERE result IN ('again', 'behind')
), ended AS (
    INSERT INTO callback_ended (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, ended_at, status,
                                attempts, data)
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, clock(), result, attempts, data
    FROM moved WHERE result IN ('delivered', 'dead')
), changed AS MATERIALIZED (
    SELECT tenant_id, endpoint_id, position, place, result FROM moved
    UNION ALL SELECT tenant_id, endpoint_id, position, place, 'again' FROM again
), counted AS (
    UPDATE callback_state s
    SET waiting = s.waiting - c.delivered - c.dead, delivered = s.delivered + c.delivered, dead = s.dead + c.dead,
        failed = s.failed + c.failed
    FROM (
        SELECT tenant_id, endpoint_id, count(*) FILTER (WHERE result = 'delivered') AS delivered,
               count(*) FILTER (WHERE result = 'dead') AS dead, count(*) FILTER (WHERE result IN ('dead', 'again')) AS failed
        FROM changed GROUP BY tenant_id, endpoint_id
    ) c
    WHERE s.tenant_id = c.tenant_id AND s.endpoint_id = c.endpoint_id
)
SELECT tenant_id, endpoint_id, position, place FROM changed;


-- name: release(tenant_id, endpoint_id, epoch, arrivals, rest_seconds, failures, quick)
-- Ends a lease. With rest_seconds the endpoint is due again after that time; without, when its next delivery is due, but then
-- the lease does not end if deliveries were added since the caller read the number of arrivals. Returns whether it ended.
-- Locks: the row. Indexes: primary keys, callback_later_due, callback_later_subject.
UPDATE callback_state s
SET lease_until = NULL, holder = NULL, failures = :failures::int, quick = :quick::bool,
    failing_since = CASE WHEN :failures::int > 0 THEN coalesce(s.failing_since, clock()) END,
    rest_until = CASE WHEN :rest_seconds::float8 IS NOT NULL THEN clock() + make_interval(secs => :rest_seconds::float8) END,
    due_at = CASE
        WHEN :rest_seconds::float8 IS NOT NULL THEN clock() + make_interval(secs => :rest_seconds::float8)
        WHEN EXISTS (SELECT FROM callback_ready WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id) THEN clock()
        ELSE (SELECT due_at FROM callback_later l
              WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id
                AND NOT EXISTS (
                    SELECT FROM callback_later e
                    WHERE e.tenant_id = :tenant_id AND e.endpoint_id = :endpoint_id AND e.subject = l.subject
                      AND (e.position, e.place) < (l.position, l.place) OFFSET 0)
              ORDER BY due_at LIMIT 1) END
WHERE s.tenant_id = :tenant_id AND s.endpoint_id = :endpoint_id AND s.epoch = :epoch
  AND (:rest_seconds::float8 IS NOT NULL OR s.arrivals = :arrivals::bigint)
RETURNING true;


-- name: park(tenant_id, endpoint_id, epoch, arrivals)!
-- Ends the lease of an endpoint that is disabled or removed; it is not due until something makes it due, which the number of
-- arrivals shows if that happens at the same time. Locks: the row. Index: primary key.
UPDATE callback_state SET lease_until = NULL, holder = NULL, due_at = CASE WHEN arrivals = :arrivals::bigint THEN NULL ELSE clock() END
WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND epoch = :epoch;


-- name: disable_gone(tenant_id, endpoint_id, reason)!
-- Disables an endpoint whose receiver has responded that it is gone. Index: primary key.
UPDATE callback_endpoint SET disabled_at = clock(), disabled_reason = :reason
WHERE tenant_id = :tenant_id AND id = :endpoint_id AND disabled_at IS NULL;


-- name: backlogs()
-- tenant: every (metrics)
-- Returns the sums of the states of each tenant's endpoints, and the seconds since the oldest event that waits.
-- Indexes: primary keys, callback_later_due.
SELECT t.name AS tenant, sum(s.waiting)::bigint AS waiting, sum(s.delivered)::bigint AS delivered, sum(s.dead)::bigint AS dead,
       sum(s.failed)::bigint AS failed,
       coalesce(extract(epoch FROM clock() - least(min(r.at), min(l.at))), 0)::float8 AS oldest_seconds
FROM callback_state s
JOIN tenant t ON t.id = s.tenant_id
LEFT JOIN LATERAL (
    SELECT at FROM callback_ready WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id AND s.waiting > 0
    ORDER BY position, place LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT at FROM callback_later WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id AND s.waiting > 0
    ORDER BY position, place LIMIT 1
) l ON true
GROUP BY t.name;
