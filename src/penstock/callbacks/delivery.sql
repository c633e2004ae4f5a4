-- Statements of the housekeeper's duties for callbacks. Loaded by penstock.callbacks.deliveries.
--
-- They serve all tenants. An endpoint belongs to the dispatcher that has its lease: every statement of a dispatcher names
-- the epoch of the lease, and changes nothing if that is not the endpoint's any more.


-- name: cursors_behind(limit)
-- tenant: every (the housekeeper serves all tenants; rows keep theirs)
-- Returns the tenants with endpoints that have events behind their cursor. Indexes: primary keys.
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
-- Returns the endpoints that the submissions of jobs named, and what they want. Indexes: primary keys.
SELECT j.job_id, e.id, e.events
FROM unnest(:job_ids::uuid[]) AS w(job_id)
CROSS JOIN LATERAL (SELECT job_id, endpoint_id FROM callback_job WHERE tenant_id = :tenant_id AND job_id = w.job_id OFFSET 0) j
CROSS JOIN LATERAL (
    SELECT id, events FROM callback_endpoint
    WHERE tenant_id = :tenant_id AND id = j.endpoint_id AND disabled_at IS NULL AND removed_at IS NULL OFFSET 0
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


-- name: lease(quick, full, limit, lease_seconds)
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
        due_at = clock() + CASE WHEN o.suspended THEN interval '1 minute' ELSE make_interval(secs => :lease_seconds) END
    FROM owned o
    WHERE s.ctid = ANY (ARRAY(SELECT row_tid FROM owned)) AND s.ctid = o.row_tid
    RETURNING s.tenant_id, s.endpoint_id, s.epoch, s.failures, o.suspended
)
SELECT * FROM taken;


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
-- Returns an endpoint whose lease the caller has; nothing if that does not hold any more. Indexes: primary keys.
SELECT e.url, e.sealed, e.secret_id, CASE WHEN e.previous_until > clock() THEN e.previous_sealed END AS previous_sealed,
       e.disabled_at IS NOT NULL OR e.removed_at IS NOT NULL AS stopped, t.suspended_at IS NOT NULL AS suspended, s.arrivals
FROM callback_state s
CROSS JOIN LATERAL (SELECT * FROM callback_endpoint WHERE tenant_id = :tenant_id AND id = s.endpoint_id OFFSET 0) e
JOIN tenant t ON t.id = s.tenant_id
WHERE s.tenant_id = :tenant_id AND s.endpoint_id = :endpoint_id AND s.epoch = :epoch;


-- name: read_ready(tenant_id, endpoint_id, position, place, limit, max_bytes)
-- Returns an endpoint's deliveries that were not tried yet, behind one of them, in order; blocked are those whose subject has an
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
-- Returns an endpoint's deliveries that are due again, except those behind another one of the same subject.
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
-- Records what came of deliveries: they have ended (delivered, dead), or wait for their next attempt (again), or wait behind
-- another one of their subject (behind). Deliveries whose lease does not hold any more, or that are gone, are not returned.
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
SET lease_until = NULL, failures = :failures::int, quick = :quick::bool,
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
UPDATE callback_state SET lease_until = NULL, due_at = CASE WHEN arrivals = :arrivals::bigint THEN NULL ELSE clock() END
WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND epoch = :epoch;


-- name: disable_gone(tenant_id, endpoint_id, reason)!
-- Disables an endpoint whose receiver wants no messages any more. Index: primary key.
UPDATE callback_endpoint SET disabled_at = clock(), disabled_reason = :reason
WHERE tenant_id = :tenant_id AND id = :endpoint_id AND disabled_at IS NULL;


-- name: give_up(max_age_seconds, limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Ends deliveries that have waited too long: their endpoint rests, or is disabled. They are dead, and can be replayed.
-- Returns how many. Locks: rows of deliveries, skipping locked ones; then those of callback_state, in order.
-- Indexes: primary keys, callback_later_due.
WITH old_ready AS MATERIALIZED (
    SELECT r.row_tid FROM callback_state s
    CROSS JOIN LATERAL (
        SELECT at FROM callback_ready WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id
        ORDER BY position, place LIMIT 1
    ) f
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_ready
        WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id
          AND at < clock() - make_interval(secs => :max_age_seconds::float8)
        ORDER BY position, place LIMIT :limit::int FOR UPDATE SKIP LOCKED
    ) r
    WHERE s.waiting > 0 AND f.at < clock() - make_interval(secs => :max_age_seconds::float8) LIMIT :limit::int
), old_later AS MATERIALIZED (
    SELECT r.row_tid FROM callback_state s
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_later
        WHERE tenant_id = s.tenant_id AND endpoint_id = s.endpoint_id
          AND due_at < clock() - make_interval(secs => :max_age_seconds::float8)
        ORDER BY due_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
    ) r
    WHERE s.waiting > 0 LIMIT :limit::int
), from_ready AS (
    DELETE FROM callback_ready WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old_ready)) RETURNING *
), from_later AS (
    DELETE FROM callback_later WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old_later)) RETURNING *
), gone AS (
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data, '[]'::json AS attempts FROM from_ready
    UNION ALL
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, data, attempts FROM from_later
), ended AS (
    INSERT INTO callback_ended (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, ended_at, status,
                                attempts, data)
    SELECT tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, clock(), 'dead', attempts, data FROM gone
), counted AS (
    UPDATE callback_state s SET waiting = s.waiting - g.number, dead = s.dead + g.number
    FROM (SELECT tenant_id, endpoint_id, count(*) AS number FROM gone GROUP BY tenant_id, endpoint_id) g
    WHERE s.tenant_id = g.tenant_id AND s.endpoint_id = g.endpoint_id
)
SELECT count(*) FROM gone;


-- name: drop_ended(status, keep_seconds, limit)
-- tenant: every (retention)
-- Deletes deliveries that ended long ago; returns how many. Locks: their rows. Index: callback_ended_age.
WITH old AS MATERIALIZED (
    SELECT ctid AS row_tid FROM callback_ended
    WHERE status = :status AND ended_at < clock() - make_interval(secs => :keep_seconds::float8)
    ORDER BY ended_at LIMIT :limit::int FOR UPDATE SKIP LOCKED
), dropped AS (
    DELETE FROM callback_ended WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old)) RETURNING 1
)
SELECT count(*) FROM dropped;


-- name: drop_jobs(keep_seconds, limit)
-- tenant: every (retention)
-- Deletes the callbacks of jobs that retention has dropped; returns how many. Locks: their rows. Indexes: primary keys.
WITH old AS MATERIALIZED (
    SELECT j.row_tid FROM callback_cursor c
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid, tenant_id, job_id FROM callback_job
        WHERE tenant_id = c.tenant_id
          AND job_id < uuid_floor(clock() - make_interval(secs => :keep_seconds::float8) - interval '1 day')
        ORDER BY job_id LIMIT :limit::int
    ) j
    WHERE NOT EXISTS (SELECT FROM job WHERE tenant_id = j.tenant_id AND id = j.job_id OFFSET 0)
    LIMIT :limit::int
), dropped AS (
    DELETE FROM callback_job WHERE ctid = ANY (ARRAY(SELECT row_tid FROM old)) RETURNING 1
)
SELECT count(*) FROM dropped;


-- name: drop_unused(keep_seconds, limit)
-- tenant: every (retention)
-- Deletes endpoints that no submission has named for long, and no job needs any more; returns how many.
-- Locks: their rows. Indexes: primary keys, callback_endpoint_digest.
WITH old AS MATERIALIZED (
    SELECT tenant_id, id FROM callback_endpoint e
    WHERE digest IS NOT NULL
      AND used_on < ((clock() - make_interval(secs => :keep_seconds::float8)) AT TIME ZONE 'UTC')::date - 2
      AND NOT EXISTS (
          SELECT FROM callback_job
          WHERE tenant_id = e.tenant_id AND job_id < uuid_floor((e.used_on + 1)::timestamp AT TIME ZONE 'UTC') OFFSET 0)
      AND NOT EXISTS (SELECT FROM callback_ready WHERE tenant_id = e.tenant_id AND endpoint_id = e.id OFFSET 0)
      AND NOT EXISTS (SELECT FROM callback_later WHERE tenant_id = e.tenant_id AND endpoint_id = e.id OFFSET 0)
      AND NOT EXISTS (SELECT FROM callback_ended WHERE tenant_id = e.tenant_id AND endpoint_id = e.id OFFSET 0)
    ORDER BY tenant_id, id LIMIT :limit::int FOR UPDATE SKIP LOCKED
), states AS (
    DELETE FROM callback_state WHERE (tenant_id, endpoint_id) IN (SELECT tenant_id, id FROM old)
), dropped AS (
    DELETE FROM callback_endpoint WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM old) RETURNING 1
)
SELECT count(*) FROM dropped;


-- name: removed(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Returns endpoints that were removed. Index: callback_endpoint_removed.
SELECT tenant_id, id FROM callback_endpoint WHERE removed_at IS NOT NULL ORDER BY removed_at LIMIT :limit::int;


-- name: drop_deliveries(tenant_id, endpoint_id, limit)
-- Deletes deliveries of an endpoint that was removed; returns how many. Locks: their rows. Indexes: primary keys.
WITH from_ready AS (
    DELETE FROM callback_ready WHERE tenant_id = :tenant_id AND ctid = ANY (ARRAY(
        SELECT ctid FROM callback_ready WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id LIMIT :limit::int)) RETURNING 1
), from_later AS (
    DELETE FROM callback_later WHERE tenant_id = :tenant_id AND ctid = ANY (ARRAY(
        SELECT ctid FROM callback_later WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id LIMIT :limit::int)) RETURNING 1
), from_ended AS (
    DELETE FROM callback_ended WHERE tenant_id = :tenant_id AND ctid = ANY (ARRAY(
        SELECT ctid FROM callback_ended WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id LIMIT :limit::int)) RETURNING 1
)
SELECT (SELECT count(*) FROM from_ready) + (SELECT count(*) FROM from_later) + (SELECT count(*) FROM from_ended);


-- name: drop_endpoint(tenant_id, endpoint_id)!
-- Deletes an endpoint that was removed and has no deliveries any more. Indexes: primary keys.
WITH state AS (
    DELETE FROM callback_state WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id
)
DELETE FROM callback_endpoint WHERE tenant_id = :tenant_id AND id = :endpoint_id;


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
