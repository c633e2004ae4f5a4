-- Statements that write, number and read events. Loaded by penstock.events.store.
--
-- Every statement that changes a job writes its event itself (jobs/sql/queries.sql). Readers use positions only.


-- name: record(tenant_id, subject, kind, data)!
-- Stores an event about one subject that is not a job, within the caller's transaction.
INSERT INTO event (tenant_id, at, kind, subject, data) SELECT :tenant_id, clock(), :kind, :subject, :data::json;


-- name: position_events(limit, settle_after)
-- tenant: every (maintenance; rows keep their tenant)
-- Gives positions to committed events that have none; see the function position_events in the schema.
SELECT position_events(:limit::int, :settle_after::interval);


-- name: end_position(tenant_id)
-- Returns the highest position assigned so far, and the time of its row. Indexes: primary keys.
SELECT e.position, e.at FROM (
    (SELECT position, at FROM event_position WHERE tenant_id = :tenant_id ORDER BY position DESC LIMIT 1)
    UNION ALL
    SELECT position, at FROM event_floor WHERE tenant_id = :tenant_id
) e ORDER BY e.position DESC LIMIT 1;


-- name: locate(tenant_id, position)
-- Returns the row at a position, if it is stored, by its time and event id, and floor, the position up to which retention has dropped
-- events. Always returns one row. Indexes: primary keys.
SELECT coalesce(f.position, 0) AS floor, coalesce(p.at, CASE WHEN f.position = :position::bigint THEN f.at END) AS known_at,
       p.event_id
FROM (VALUES (1)) AS one(n)
LEFT JOIN LATERAL (SELECT position, at FROM event_floor WHERE tenant_id = :tenant_id OFFSET 0) f ON true
LEFT JOIN LATERAL (
    SELECT at, event_id FROM event_position WHERE tenant_id = :tenant_id AND position = :position::bigint LIMIT 1
) p ON true;


-- name: read_events(tenant_id, known, behind, upto, limit, max_bytes)
-- Returns events in order of position, after behind and up to upto: at most limit rows, and no more once their data exceeds
-- max_bytes (the row that exceeds it is still returned). available is their number without that bound. Each row also has
-- floor, the position up to which retention has dropped events, and known_at, the time of the row at the position known, if
-- the store has it. When there is no event, one row has only these. Indexes: primary keys, event_order.
SELECT a.floor, a.known_at, w.position, w.at, w.kind, w.subject, w.job_id, w.job_ids, w.series_ids, w.epochs, w.attempts,
       w.first, w.data, w.run_ids, w.available
FROM (
    SELECT coalesce(f.position, 0) AS floor, coalesce(p.at, CASE WHEN f.position = :known::bigint THEN f.at END) AS known_at
    FROM (VALUES (1)) AS one(n)
    LEFT JOIN LATERAL (SELECT position, at FROM event_floor WHERE tenant_id = :tenant_id OFFSET 0) f ON true
    LEFT JOIN LATERAL (
        SELECT at FROM event_position WHERE tenant_id = :tenant_id AND position = :known::bigint LIMIT 1
    ) p ON true
) a
LEFT JOIN (
    SELECT * FROM (
        SELECT p.position, e.*, count(*) OVER () AS available,
               sum(coalesce(e.weight, 0) + 64 * coalesce(cardinality(e.job_ids), 1)) OVER (ORDER BY p.position) AS reached,
               coalesce(e.weight, 0) + 64 * coalesce(cardinality(e.job_ids), 1) AS size
        FROM (
            SELECT position, event_id, at FROM event_position
            WHERE tenant_id = :tenant_id AND position > :behind::bigint AND position <= :upto::bigint
            ORDER BY position LIMIT :limit::int
        ) p
        CROSS JOIN LATERAL (SELECT * FROM event WHERE tenant_id = :tenant_id AND at = p.at AND id = p.event_id OFFSET 0) e
    ) sized
    WHERE sized.reached - sized.size <= :max_bytes::bigint
) w ON true
ORDER BY w.position;


-- name: hold_relay(relay, holder, seconds)
-- tenant: every (a relay copies the events of all tenants)
-- Holds a relay for some seconds, or renews the hold; returns nothing if another process holds it. A relay that is held for the first
-- time begins at the end of each tenant's events; later tenants begin at their first event. Indexes: primary keys.
WITH held AS (
    INSERT INTO relay AS r (name, held_by, held_until)
    VALUES (:relay, :holder, clock() + make_interval(secs => :seconds::float8))
    ON CONFLICT (name) DO UPDATE SET held_by = excluded.held_by, held_until = excluded.held_until
    WHERE r.held_by = excluded.held_by OR r.held_until < clock()
    RETURNING name, xmax = 0 AS is_new
), begun AS (
    INSERT INTO relay_cursor (relay, tenant_id, position, at)
    SELECT h.name, t.id, e.position, e.at FROM held h CROSS JOIN tenant t
    CROSS JOIN LATERAL (
        SELECT position, at FROM (
            (SELECT position, at FROM event_position WHERE tenant_id = t.id ORDER BY position DESC LIMIT 1)
            UNION ALL
            SELECT position, at FROM event_floor WHERE tenant_id = t.id
        ) ends ORDER BY position DESC LIMIT 1
    ) e
    WHERE h.is_new
)
SELECT name FROM held;


-- name: relay_behind(relay)
-- tenant: every (a relay copies the events of all tenants)
-- Returns the tenants whose last position is not the one that a relay has reached, with that cursor. Indexes: primary keys.
SELECT t.id AS tenant_id, t.name, c.position, c.at
FROM tenant t
LEFT JOIN relay_cursor c ON c.relay = :relay AND c.tenant_id = t.id
CROSS JOIN LATERAL (SELECT position FROM event_position WHERE tenant_id = t.id ORDER BY position DESC LIMIT 1) e
WHERE e.position <> coalesce(c.position, 0);


-- name: advance_relay(relay, holder, tenant_id, position, at)
-- Moves the cursor of a relay, if this process still holds it. Indexes: primary keys.
INSERT INTO relay_cursor AS c (relay, tenant_id, position, at)
SELECT :relay, :tenant_id, :position::bigint, :at::timestamptz FROM relay WHERE name = :relay AND held_by = :holder
ON CONFLICT (relay, tenant_id) DO UPDATE SET position = excluded.position, at = excluded.at
RETURNING c.position;
