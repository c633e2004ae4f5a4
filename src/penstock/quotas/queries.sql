-- Quotas. Loaded by penstock.quotas.store. The functions quota_sync, quota_expire and quota_window are in the migration.

-- name: sync(tenants, quotas, subjects, windows, ids, useds, ackeds, reserveds, floors, leasts, bests)
-- tenant: every (a gateway serves all tenants; each entry names its own)
-- Synchronise slices with the database; see quota_sync. Entries whose quota was deleted are left out of the result. Locks:
-- the rows of quota_use, in the order of their keys. Index: primary keys.
SELECT * FROM quota_sync(:tenants::integer[], :quotas::uuid[], :subjects::text[], :windows::timestamptz[], :ids::uuid[],
                         :useds::bigint[], :ackeds::bigint[], :reserveds::bigint[], :floors::bigint[], :leasts::bigint[],
                         :bests::bigint[]);


-- name: changed_tenants(after)
-- tenant: every (a gateway serves all tenants)
-- Return the tenants that changed after a number; changing a quota changes its tenant. Index: tenant_changed.
SELECT id FROM tenant WHERE changed > :after::bigint;


-- name: rules()
-- tenant: every (a gateway serves all tenants)
-- Return all quotas.
SELECT q.tenant_id, q.id, q.key_id, q.user_id, q.measure, q.per, q.most, q.strict FROM quota q;


-- name: rules_of(tenant_ids)
-- tenant: every (a gateway serves all tenants)
-- Return the quotas of some tenants. Index: primary key.
SELECT q.tenant_id, q.id, q.key_id, q.user_id, q.measure, q.per, q.most, q.strict
FROM unnest(:tenant_ids::integer[]) AS wanted(id) JOIN quota q ON q.tenant_id = wanted.id;


-- name: stamp(tenant_id, generation)!
-- Mark a tenant as changed, so that gateways read its quotas again. Locks: the tenant. Index: primary key.
UPDATE tenant SET changed = :generation::bigint WHERE id = :tenant_id::integer;


-- name: put(tenant_id, key_id, user_id, measure, per, most, on_crash, strict)
-- Set a quota; returns its id. Locks: the quota. Index: its unique key.
INSERT INTO quota AS q (tenant_id, key_id, user_id, measure, per, most, on_crash, strict)
SELECT :tenant_id::integer, :key_id::text, :user_id::text, :measure::text, :per::text, :most::bigint, :on_crash::text,
       :strict::boolean
ON CONFLICT (tenant_id, key_id, user_id, measure, per)
DO UPDATE SET most = excluded.most, on_crash = excluded.on_crash, strict = excluded.strict
RETURNING q.id;


-- name: remove(tenant_id, id)
-- Remove a quota with all that was counted for it; returns its id, or nothing. Locks: the quota. Index: primary key.
DELETE FROM quota WHERE tenant_id = :tenant_id AND id = :id RETURNING id;


-- name: has_key(tenant_id, key_id)
-- Return whether the tenant has such a key. Index: primary key of api_key.
SELECT EXISTS (SELECT FROM api_key WHERE tenant_id = :tenant_id AND id = :key_id);


-- name: number_of(tenant_id)
-- Return how many quotas the tenant has. Index: primary key.
SELECT count(*) FROM quota WHERE tenant_id = :tenant_id;


-- name: quotas(tenant_id, id, user_id)
-- Return the quotas of a tenant, or one of them, with what is used in the current window; of quotas for every user, what
-- user_id used. Index: primary keys.
SELECT q.id, q.measure, q.per, q.key_id, q.user_id, q.most, q.on_crash, q.strict, w.ends_at, x.held, x.unaccounted,
       CASE WHEN q.user_id = '*' AND :user_id::text IS NULL THEN NULL
            WHEN q.measure = 'pending_jobs' AND (q.key_id <> '' OR q.user_id <> '') THEN (
                SELECT count(DISTINCT c.job_id) FROM quota_job c
                WHERE c.tenant_id = :tenant_id AND c.quota_id = q.id
                  AND c.subject = CASE WHEN q.user_id = '*' THEN :user_id::text ELSE '' END
                  AND (EXISTS (SELECT FROM ready WHERE tenant_id = :tenant_id AND job_id = c.job_id OFFSET 0)
                       OR EXISTS (SELECT FROM later WHERE tenant_id = :tenant_id AND job_id = c.job_id OFFSET 0)))
            WHEN q.measure = 'pending_jobs' THEN (
                SELECT coalesce(sum(p.pending), 0) FROM (
                    SELECT s.pending FROM stat s WHERE s.tenant_id = :tenant_id
                    UNION ALL SELECT d.pending FROM stat_delta d WHERE d.tenant_id = :tenant_id) p)
            WHEN q.measure = 'stored_bytes' THEN quota_stored(:tenant_id)
            WHEN q.measure = 'stored_items' THEN (
                SELECT coalesce(sum(c.items), 0) FROM collection c WHERE c.tenant_id = :tenant_id AND c.removed_at IS NULL)
            WHEN q.per = 'minute' THEN (
                SELECT coalesce(sum(n), 0)
                FROM unnest(quota_recent(x.recent, x.recent_at, floor(extract(epoch FROM clock()))::bigint)) n)
            ELSE coalesce(x.settled, 0) END::bigint AS used
FROM quota q
JOIN tenant t ON t.id = q.tenant_id
CROSS JOIN LATERAL quota_window(q.per, t.time_zone, clock()) w
LEFT JOIN quota_use x ON x.tenant_id = :tenant_id AND x.quota_id = q.id AND x.window_start = w.starts_at
     AND x.subject = CASE WHEN q.user_id = '*' THEN :user_id::text ELSE '' END
WHERE q.tenant_id = :tenant_id
  AND (:id::uuid IS NULL OR q.id = :id::uuid)
ORDER BY q.key_id, q.user_id, q.measure, q.per;


-- name: count_jobs(tenant_id, job_ids)!
-- Store pending jobs for the quotas that count those of their key or user. Runs in the transaction that made them pending.
-- Locks: these quotas, against removal. Indexes: unique index of ready; primary keys of later, submitter and quota.
INSERT INTO quota_job (tenant_id, quota_id, subject, job_id, turn)
SELECT :tenant_id::integer, q.id, CASE WHEN q.user_id = '*' THEN b.user_id ELSE '' END, w.job_id, p.turn
FROM unnest(:job_ids::uuid[]) AS w(job_id)
CROSS JOIN LATERAL (
    SELECT submitter_id, seq AS turn FROM ready WHERE tenant_id = :tenant_id AND job_id = w.job_id
    UNION ALL
    SELECT submitter_id, 0 FROM later WHERE tenant_id = :tenant_id AND job_id = w.job_id
    OFFSET 0
) p
JOIN submitter b ON b.tenant_id = :tenant_id AND b.id = p.submitter_id
JOIN quota q ON q.tenant_id = :tenant_id AND q.measure = 'pending_jobs' AND (q.key_id <> '' OR q.user_id <> '')
     AND q.key_id IN ('', b.key_id) AND (q.user_id IN ('', b.user_id) OR (q.user_id = '*' AND b.user_id <> ''))
FOR KEY SHARE OF q
ON CONFLICT DO NOTHING;


-- name: sweep_jobs(after_tenant, after_quota, after_subject, after_job, after_turn, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Remove finished jobs from the rows after the given one that quotas count, a limited number at a time; returns the last row
-- that was checked. Locks: the rows removed. Index: primary keys.
WITH page AS MATERIALIZED (
    SELECT c.ctid AS row_tid, c.* FROM quota_job c
    WHERE (c.tenant_id, c.quota_id, c.subject, c.job_id, c.turn)
        > (:after_tenant::integer, :after_quota::uuid, :after_subject::text, :after_job::uuid, :after_turn::bigint)
    ORDER BY c.tenant_id, c.quota_id, c.subject, c.job_id, c.turn LIMIT :limit::integer
), gone AS (
    DELETE FROM quota_job WHERE ctid = ANY (ARRAY(
        SELECT p.row_tid FROM page p
        WHERE NOT EXISTS (SELECT FROM ready WHERE tenant_id = p.tenant_id AND job_id = p.job_id OFFSET 0)
          AND NOT EXISTS (SELECT FROM later WHERE tenant_id = p.tenant_id AND job_id = p.job_id OFFSET 0)
          AND NOT EXISTS (SELECT FROM lease WHERE tenant_id = p.tenant_id AND job_id = p.job_id OFFSET 0)
    ))
)
SELECT tenant_id, quota_id, subject, job_id, turn FROM page ORDER BY tenant_id DESC, quota_id DESC, subject DESC, job_id DESC, turn DESC LIMIT 1;


-- name: expired(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Lock the rows that have slices which expired, skipping locked ones; returns them. Index: quota_slice_expiry.
SELECT x.tenant_id, x.quota_id, x.subject, x.window_start
FROM quota_use x
JOIN (SELECT DISTINCT s.tenant_id, s.quota_id, s.subject, s.window_start FROM (
          SELECT * FROM quota_slice WHERE expires_at <= clock() ORDER BY expires_at LIMIT :limit) s) e
     USING (tenant_id, quota_id, subject, window_start)
ORDER BY x.tenant_id, x.quota_id, x.subject, x.window_start
FOR UPDATE OF x SKIP LOCKED;


-- name: expire(tenant_id, quota_id, subject, window_start)!
-- End the slices of one window that have expired. The caller holds its lock.
UPDATE quota_use x SET held = e.held, settled = e.settled, unaccounted = e.unaccounted, recent = e.recent
FROM quota q, quota_use u, LATERAL quota_expire(u, q.on_crash) e
WHERE x.tenant_id = :tenant_id AND x.quota_id = :quota_id AND x.subject = :subject AND x.window_start = :window_start
  AND u.tenant_id = :tenant_id AND u.quota_id = x.quota_id AND u.subject = x.subject AND u.window_start = x.window_start
  AND q.tenant_id = :tenant_id AND q.id = x.quota_id;


-- name: forget(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Remove windows that were not touched for 100 days, and those of minutes and of amounts at a time after one day;
-- returns how many. Locks: their rows, skipping locked ones. Index: quota_use_touched.
WITH old AS MATERIALIZED (
    SELECT x.tenant_id, x.quota_id, x.subject, x.window_start FROM quota_use x
    WHERE x.touched_at < clock() - interval '1 day' AND x.held = 0
      AND (x.window_start = 'epoch' OR x.touched_at < clock() - interval '100 days')
    ORDER BY x.touched_at LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM quota_use x USING old o
    WHERE x.tenant_id = o.tenant_id AND x.quota_id = o.quota_id AND x.subject = o.subject AND x.window_start = o.window_start
    RETURNING 1
)
SELECT count(*) FROM gone;
