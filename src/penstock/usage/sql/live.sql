-- Statements of processes that account live calls. Loaded by penstock.usage.sql.live.


-- name: resolve_submitters(tenant_ids, key_ids, user_ids)
-- tenant: every (of several tenants; each row names its own)
-- Returns the ids of (tenant, key, user), and creates those that are missing. Locks: unique index of submitter, in the order
-- given (sorted).
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(:tenant_ids::int[], :key_ids::text[], :user_ids::text[]) AS w(tenant_id, key_id, user_id)
), made AS (
    INSERT INTO submitter (tenant_id, key_id, user_id)
    SELECT w.tenant_id, w.key_id, w.user_id FROM wanted w
    WHERE NOT EXISTS (SELECT FROM submitter s WHERE s.tenant_id = w.tenant_id AND s.key_id = w.key_id AND s.user_id = w.user_id)
    ON CONFLICT DO NOTHING
    RETURNING id, tenant_id, key_id, user_id
)
SELECT * FROM made
UNION ALL
SELECT s.id, s.tenant_id, s.key_id, s.user_id
FROM wanted w JOIN submitter s ON s.tenant_id = w.tenant_id AND s.key_id = w.key_id AND s.user_id = w.user_id;


-- name: flush(source, number, tenant_ids, ages, submitter_ids, providers, models, versions, apps, prices, calls, failures, unpriced, prompt_tokens, completion_tokens, audio_us, model_us, bytes_in, bytes_out, sessions, costs)
-- tenant: every (of several tenants; each row names its own)
-- Appends a process's live usage as its flush of this number, unless that flush or a later one was written before: an
-- unknown outcome is settled by sending it again. While the earlier try is still committing, the row lock makes this
-- one wait for it. The time of a row is the database's, minus its age in seconds. Returns whether it was written now, and
-- the database's time. Locks: the process's row.
WITH turn AS (
    INSERT INTO usage_source AS s (id, last_flush, flushed_at) VALUES (:source, :number, clock())
    ON CONFLICT (id) DO UPDATE SET last_flush = excluded.last_flush, flushed_at = excluded.flushed_at
    WHERE s.last_flush < excluded.last_flush
    RETURNING id
), written AS (
    INSERT INTO usage_delta (tenant_id, at, series_id, submitter_id, provider, model, version, app, price, calls, failures,
                             unpriced, prompt_tokens, completion_tokens, audio_us, model_us, bytes_in, bytes_out, sessions, cost)
    SELECT r.tenant_id, clock() - make_interval(secs => r.age), 0, r.submitter_id, r.provider, r.model, r.version, r.app,
           r.price, r.calls, r.failures, r.unpriced, r.prompt_tokens, r.completion_tokens, r.audio_us, r.model_us, r.bytes_in,
           r.bytes_out, r.sessions, r.cost
    FROM turn CROSS JOIN unnest(
        :tenant_ids::int[], :ages::float8[], :submitter_ids::int[], :providers::text[], :models::text[], :versions::text[],
        :apps::text[], :prices::text[], :calls::bigint[], :failures::bigint[], :unpriced::bigint[], :prompt_tokens::bigint[],
        :completion_tokens::bigint[], :audio_us::bigint[], :model_us::bigint[], :bytes_in::bigint[], :bytes_out::bigint[],
        :sessions::bigint[], :costs::numeric[]
    ) AS r(tenant_id, age, submitter_id, provider, model, version, app, price, calls, failures, unpriced, prompt_tokens,
           completion_tokens, audio_us, model_us, bytes_in, bytes_out, sessions, cost)
)
SELECT EXISTS (SELECT FROM turn) AS written, extract(epoch FROM clock())::float8 AS now;


-- name: store_prices(ids, contents)!
-- tenant: every (no tenant's row)
-- Stores the content of prices, so that a cost can be explained after the price list has changed. Locks: rows in id order.
INSERT INTO usage_price AS p (id, content, used_at)
SELECT x.id, x.content, clock() FROM unnest(:ids::text[], :contents::json[]) AS x(id, content) ORDER BY x.id
ON CONFLICT (id) DO UPDATE SET used_at = clock() WHERE p.used_at < clock() - interval '1 day';
