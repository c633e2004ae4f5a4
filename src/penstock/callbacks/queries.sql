-- Statements that manage endpoints and read deliveries. Loaded by penstock.callbacks.store.


-- name: begin(tenant_id, kinds)
-- Makes sure that the events of a tenant become deliveries from now on, those of the caller's transaction included, and that
-- these types are read for endpoints that submissions name. Returns true where the tenant had no endpoint before.
-- Waits for a transaction that does the same for the first time. Locks: the row, if a type is new. Indexes: primary keys.
WITH made AS (
    INSERT INTO callback_cursor (tenant_id, position, kinds)
    SELECT :tenant_id, coalesce(max(position), 0), :kinds::text[] FROM (
        (SELECT position FROM event_position WHERE tenant_id = :tenant_id ORDER BY position DESC LIMIT 1)
        UNION ALL
        SELECT position FROM event_floor WHERE tenant_id = :tenant_id
    ) e
    WHERE NOT EXISTS (SELECT FROM callback_cursor WHERE tenant_id = :tenant_id)
    ON CONFLICT (tenant_id) DO UPDATE
    SET kinds = ARRAY(SELECT unnest(callback_cursor.kinds) UNION SELECT unnest(excluded.kinds))
    RETURNING true
), widened AS (
    UPDATE callback_cursor SET kinds = ARRAY(SELECT unnest(kinds) UNION SELECT unnest(:kinds::text[]))
    WHERE tenant_id = :tenant_id AND NOT kinds @> :kinds::text[]
)
SELECT EXISTS (SELECT FROM made);


-- name: end_position(tenant_id)
-- Returns the highest position assigned so far. Indexes: primary keys.
SELECT coalesce(max(position), 0) FROM (
    (SELECT position FROM event_position WHERE tenant_id = :tenant_id ORDER BY position DESC LIMIT 1)
    UNION ALL
    SELECT position FROM event_floor WHERE tenant_id = :tenant_id
) e;


-- name: number_of(tenant_id)
-- Returns how many endpoints a tenant has registered. Index: primary key.
SELECT count(*) FROM callback_endpoint WHERE tenant_id = :tenant_id AND digest IS NULL AND removed_at IS NULL;


-- name: create(tenant_id, id, url, events, description, sealed, secret_id, since)!
-- Adds an endpoint that a tenant registers.
INSERT INTO callback_endpoint (tenant_id, id, url, events, description, sealed, secret_id, since, created_at)
SELECT :tenant_id, :id, :url, :events::text[], :description, :sealed::bytea, :secret_id::text, :since::bigint, clock();


-- name: name_endpoints(tenant_id, ids, digests, urls, events, sealed, secret_ids)
-- Returns the endpoints that submissions name, and adds those that are missing. The types of one endpoint are joined by
-- commas. Records once a day that an endpoint is used, so that it is not removed.
-- Locks: the rows added and noted, in the order given (sorted). Index: unique index of callback_endpoint.
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(:ids::uuid[], :digests::bytea[], :urls::text[], :events::text[], :sealed::bytea[], :secret_ids::text[])
        AS w(id, digest, url, events, sealed, secret_id)
), known AS MATERIALIZED (
    SELECT e.id, e.digest, e.used_on FROM wanted w
    CROSS JOIN LATERAL (
        SELECT id, digest, used_on FROM callback_endpoint
        WHERE tenant_id = :tenant_id AND digest = w.digest OFFSET 0
    ) e
), noted AS (
    UPDATE callback_endpoint SET used_on = (clock() AT TIME ZONE 'UTC')::date
    WHERE tenant_id = :tenant_id
      AND id = ANY (ARRAY(SELECT id FROM known WHERE used_on < (clock() AT TIME ZONE 'UTC')::date))
), made AS (
    INSERT INTO callback_endpoint (tenant_id, id, digest, url, events, description, sealed, secret_id, since, created_at, used_on)
    SELECT :tenant_id, id, digest, url, string_to_array(events, ','), '', sealed, secret_id, 0, clock(),
           (clock() AT TIME ZONE 'UTC')::date
    FROM wanted WHERE digest <> ALL (ARRAY(SELECT digest FROM known))
    ON CONFLICT (tenant_id, digest) WHERE digest IS NOT NULL DO NOTHING
    RETURNING id, digest
)
SELECT id, digest FROM known UNION ALL SELECT id, digest FROM made;


-- name: attach(tenant_id, job_ids, endpoint_ids, marketplace_ids)!
-- Gives new jobs the endpoints that their submissions named and that of the marketplace, within the transaction that creates
-- them.
INSERT INTO callback_job (tenant_id, job_id, endpoint_id, marketplace_id)
SELECT :tenant_id, n.* FROM unnest(:job_ids::uuid[], :endpoint_ids::uuid[], :marketplace_ids::uuid[]) AS n;


-- name: of_jobs(tenant_id, job_ids)
-- Returns the endpoints that the submissions of jobs named. Index: primary key of callback_job.
SELECT j.job_id, j.endpoint_id FROM unnest(:job_ids::uuid[]) AS w(job_id)
CROSS JOIN LATERAL (SELECT job_id, endpoint_id FROM callback_job WHERE tenant_id = :tenant_id AND job_id = w.job_id OFFSET 0) j
WHERE j.endpoint_id IS NOT NULL;


-- name: endpoint(tenant_id, id, hidden)
-- Returns an endpoint with its state, unless its URL is the hidden one. Indexes: primary keys.
SELECT e.id, e.url, e.events, e.description, e.sealed IS NOT NULL AS signed, e.created_at, e.disabled_at, e.disabled_reason,
       CASE WHEN e.previous_until > clock() THEN e.previous_until END AS previous_secret_until, e.digest IS NULL AS registered,
       s.waiting, s.delivered, s.dead, s.failed, s.failures, s.failing_since,
       CASE WHEN s.rest_until > clock() THEN s.rest_until END AS rest_until
FROM callback_endpoint e
LEFT JOIN LATERAL (SELECT * FROM callback_state WHERE tenant_id = :tenant_id AND endpoint_id = e.id OFFSET 0) s ON true
WHERE e.tenant_id = :tenant_id AND e.id = :id AND e.removed_at IS NULL AND e.url IS DISTINCT FROM :hidden::text;


-- name: endpoints(tenant_id, registered, after, at_most, hidden)
-- Returns endpoints in the order of their ids, with their states: those that are registered, or those that submissions name,
-- without those whose URL is the hidden one.
-- Indexes: primary keys.
SELECT e.id, e.url, e.events, e.description, e.sealed IS NOT NULL AS signed, e.created_at, e.disabled_at, e.disabled_reason,
       CASE WHEN e.previous_until > clock() THEN e.previous_until END AS previous_secret_until, e.digest IS NULL AS registered,
       s.waiting, s.delivered, s.dead, s.failed, s.failures, s.failing_since,
       CASE WHEN s.rest_until > clock() THEN s.rest_until END AS rest_until
FROM callback_endpoint e
LEFT JOIN LATERAL (SELECT * FROM callback_state WHERE tenant_id = :tenant_id AND endpoint_id = e.id OFFSET 0) s ON true
WHERE e.tenant_id = :tenant_id AND e.id > :after::uuid AND e.removed_at IS NULL AND (e.digest IS NULL) = :registered::bool
  AND e.url IS DISTINCT FROM :hidden::text
ORDER BY e.id LIMIT :at_most::int;


-- name: lock_endpoint(tenant_id, id)
-- Locks an endpoint that a tenant registered, for a change. Index: primary key.
SELECT id, sealed, secret_id FROM callback_endpoint
WHERE tenant_id = :tenant_id AND id = :id AND removed_at IS NULL FOR UPDATE;


-- name: change(tenant_id, id, url, events, description)!
-- Changes an endpoint. Index: primary key.
UPDATE callback_endpoint SET url = :url, events = :events::text[], description = :description
WHERE tenant_id = :tenant_id AND id = :id;


-- name: disable(tenant_id, id, reason)!
-- Disables an endpoint. Index: primary key.
UPDATE callback_endpoint SET disabled_at = coalesce(disabled_at, clock()), disabled_reason = coalesce(disabled_reason, :reason)
WHERE tenant_id = :tenant_id AND id = :id;


-- name: enable(tenant_id, id, since)!
-- Enables an endpoint: it gets events after a position, and its waiting deliveries are due. Indexes: primary keys.
WITH enabled AS (
    UPDATE callback_endpoint SET disabled_at = NULL, disabled_reason = NULL, since = :since::bigint
    WHERE tenant_id = :tenant_id AND id = :id AND disabled_at IS NOT NULL
    RETURNING id
)
UPDATE callback_state SET arrivals = arrivals + 1, failures = 0, failing_since = NULL, rest_until = NULL,
       due_at = CASE WHEN waiting > 0 AND NOT coalesce(lease_until > clock(), false) THEN clock() ELSE due_at END
WHERE tenant_id = :tenant_id AND endpoint_id IN (SELECT id FROM enabled);


-- name: rotate(tenant_id, id, sealed, previous_sealed, secret_id, overlap_seconds)!
-- Gives an endpoint a new secret; messages are signed with both for a while. Index: primary key.
UPDATE callback_endpoint
SET sealed = :sealed::bytea, previous_sealed = :previous_sealed::bytea, secret_id = :secret_id::text,
    previous_until = CASE WHEN :previous_sealed::bytea IS NOT NULL THEN clock() + make_interval(secs => :overlap_seconds::float8) END
WHERE tenant_id = :tenant_id AND id = :id;


-- name: remove(tenant_id, id)!
-- Removes an endpoint: it gets nothing more, and the housekeeper deletes its deliveries and then the row. Index: primary key.
UPDATE callback_endpoint SET removed_at = clock() WHERE tenant_id = :tenant_id AND id = :id;


-- name: deliveries(tenant_id, endpoint_id, status, position, place, at_most)
-- Returns the deliveries of an endpoint before one of them, the newest event first: all, or those that are waiting, delivered or
-- dead. Indexes: primary keys, callback_ended_dead.
SELECT d.* FROM (
    (SELECT position, place, mark, kind, source, subject, at, 'waiting' AS status, NULL::timestamptz AS due_at,
            NULL::timestamptz AS ended_at, '[]'::json AS attempts, data
     FROM callback_ready
     WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND (position, place) < (:position::bigint, :place::int)
       AND coalesce(:status::text, 'waiting') = 'waiting'
     ORDER BY position DESC, place DESC LIMIT :at_most::int)
    UNION ALL
    (SELECT position, place, mark, kind, source, subject, at, 'waiting', due_at, NULL, attempts, data
     FROM callback_later
     WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND (position, place) < (:position::bigint, :place::int)
       AND coalesce(:status::text, 'waiting') = 'waiting'
     ORDER BY position DESC, place DESC LIMIT :at_most::int)
    UNION ALL
    (SELECT position, place, mark, kind, source, subject, at, status, NULL, ended_at, attempts, data
     FROM callback_ended
     WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND (position, place) < (:position::bigint, :place::int)
       AND status = 'delivered' AND coalesce(:status::text, 'delivered') = 'delivered'
     ORDER BY position DESC, place DESC LIMIT :at_most::int)
    UNION ALL
    (SELECT position, place, mark, kind, source, subject, at, status, NULL, ended_at, attempts, data
     FROM callback_ended
     WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND (position, place) < (:position::bigint, :place::int)
       AND status = 'dead' AND coalesce(:status::text, 'dead') = 'dead'
     ORDER BY position DESC, place DESC LIMIT :at_most::int)
) d
ORDER BY d.position DESC, d.place DESC LIMIT :at_most::int;


-- name: replay(tenant_id, endpoint_id, positions, places, dead_limit)
-- Makes deliveries that have ended due again, with all their attempts available: those named, or with dead_limit the oldest
-- dead ones. Returns how many. Locks: their rows; then the row of callback_state. Indexes: primary keys, callback_ended_dead.
WITH wanted AS MATERIALIZED (
    SELECT e.row_tid FROM unnest(:positions::bigint[], :places::int[]) AS w(position, place)
    CROSS JOIN LATERAL (
        SELECT ctid AS row_tid FROM callback_ended
        WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND position = w.position AND place = w.place FOR UPDATE
    ) e
    UNION ALL
    SELECT row_tid FROM (
        SELECT ctid AS row_tid FROM callback_ended
        WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id AND status = 'dead'
        ORDER BY position, place LIMIT :dead_limit::int FOR UPDATE
    ) d
), taken AS (
    DELETE FROM callback_ended WHERE ctid = ANY (ARRAY(SELECT row_tid FROM wanted)) AND tenant_id = :tenant_id RETURNING *
), kept AS (
    INSERT INTO callback_later (tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, due_at, tries, attempts,
                                data)
    SELECT :tenant_id, endpoint_id, position, place, mark, kind, source, subject, at, clock(), 0, attempts, data FROM taken
), counted AS (
    UPDATE callback_state s
    SET arrivals = s.arrivals + 1, waiting = s.waiting + t.number, dead = greatest(s.dead - t.dead, 0),
        due_at = CASE WHEN s.lease_until > clock() THEN s.due_at ELSE clock() END
    FROM (SELECT count(*) AS number, count(*) FILTER (WHERE status = 'dead') AS dead FROM taken) t
    WHERE s.tenant_id = :tenant_id AND s.endpoint_id = :endpoint_id AND t.number > 0
)
SELECT count(*) FROM taken;


-- name: sealed_under(secret_id)
-- tenant: every (a secret protects the endpoints of all tenants)
-- Returns the endpoints whose secrets a secret of the installation encrypts, and locks them. Index: callback_endpoint_secret.
SELECT tenant_id, id, sealed, previous_sealed FROM callback_endpoint WHERE secret_id = :secret_id
ORDER BY tenant_id, id FOR UPDATE;


-- name: reseal(tenant_id, id, sealed, previous_sealed, secret_id)!
-- Stores secrets that were encrypted with another secret of the installation. Index: primary key.
UPDATE callback_endpoint
SET sealed = :sealed::bytea, previous_sealed = :previous_sealed::bytea, secret_id = :secret_id::text
WHERE tenant_id = :tenant_id AND id = :id;
