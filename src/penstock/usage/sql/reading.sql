-- Reading usage. Loaded by penstock.usage.sql.reading.


-- name: tenants()
-- tenant: every (names)
-- Returns the ids of all tenants, for an operator.
SELECT id FROM usage_tenant ORDER BY id;


-- name: by_quarters(tenant_ids)
-- tenant: every (of the tenants that the caller names)
-- Returns whether the usage of all these tenants is summed up by quarters of hours.
SELECT NOT EXISTS (
    SELECT FROM unnest(:tenant_ids::int[]) AS w(id) LEFT JOIN tenant t ON t.id = w.id
    WHERE NOT coalesce(usage_by_quarters(t.time_zone), false)
);


-- name: report(tenant_ids, broad, by, tenants, keys, users, owner_services, task_types, model_profiles, providers, models, versions, apps, prices, buckets, units, lows, highs, limit)
-- tenant: every (of the tenants that the caller names; each table is read for those alone)
-- Returns sums of usage by bucket and by the dimensions in "by"; the other dimensions are null. A bucket is made of ranges
-- of whole hours, days or months, which do not overlap. broad: no key or user is named. One snapshot has the roll-ups and
-- the deltas not rolled up yet, so the sums are exact. Returns at most limit groups in the order of their buckets, and
-- within a bucket by cost and calls; the last row (bucket -1) has the sums of all groups. The dimensions are replaced by the
-- number of their group first, so that rows of the roll-ups are grouped by two integers.
-- Indexes: primary key of usage_sum, once for each range; usage_dims by tenant. Scans usage_delta.
WITH range AS MATERIALIZED (
    SELECT * FROM unnest(:buckets::int[], :units::text[], :lows::timestamptz[], :highs::timestamptz[])
                  AS r(bucket, unit, low, high)
), d AS MATERIALIZED (
    SELECT d.*, t.name AS tenant_name FROM usage_dims d JOIN usage_tenant t ON t.id = d.tenant_id
    WHERE d.tenant_id = ANY (:tenant_ids::int[]) AND d.broad = :broad
      AND (:tenants::text[] IS NULL OR t.name = ANY (:tenants))
      AND (:keys::text[] IS NULL OR d.key_id = ANY (:keys))
      AND (:users::text[] IS NULL OR d.user_id = ANY (:users))
      AND (:owner_services::text[] IS NULL OR d.owner_service = ANY (:owner_services))
      AND (:task_types::text[] IS NULL OR d.task_type = ANY (:task_types))
      AND (:model_profiles::text[] IS NULL OR d.model_profile = ANY (:model_profiles))
      AND (:providers::text[] IS NULL OR d.provider = ANY (:providers))
      AND (:models::text[] IS NULL OR d.model = ANY (:models))
      AND (:versions::text[] IS NULL OR d.version = ANY (:versions))
      AND (:apps::text[] IS NULL OR d.app = ANY (:apps))
      AND (:prices::text[] IS NULL OR d.price = ANY (:prices))
), numbered AS MATERIALIZED (
    SELECT d.id, dense_rank() OVER (ORDER BY g.tenant_name, g.key_id, g.user_id, g.owner_service, g.task_type, g.model_profile,
           g.provider, g.model, g.version, g.app, g.price) AS number, g.*
    FROM d CROSS JOIN LATERAL (SELECT
        CASE WHEN 'tenant' = ANY (:by::text[]) THEN d.tenant_name END COLLATE "C" AS tenant_name,
        CASE WHEN 'key' = ANY (:by::text[]) THEN d.key_id END COLLATE "C" AS key_id,
        CASE WHEN 'user' = ANY (:by::text[]) THEN d.user_id END COLLATE "C" AS user_id,
        CASE WHEN 'owner_service' = ANY (:by::text[]) THEN d.owner_service END COLLATE "C" AS owner_service,
        CASE WHEN 'task_type' = ANY (:by::text[]) THEN d.task_type END COLLATE "C" AS task_type,
        CASE WHEN 'model_profile' = ANY (:by::text[]) THEN d.model_profile END COLLATE "C" AS model_profile,
        CASE WHEN 'provider' = ANY (:by::text[]) THEN d.provider END COLLATE "C" AS provider,
        CASE WHEN 'model' = ANY (:by::text[]) THEN d.model END COLLATE "C" AS model,
        CASE WHEN 'version' = ANY (:by::text[]) THEN d.version END COLLATE "C" AS version,
        CASE WHEN 'app' = ANY (:by::text[]) THEN d.app END COLLATE "C" AS app,
        CASE WHEN 'price' = ANY (:by::text[]) THEN d.price END COLLATE "C" AS price
    ) g
), rolled AS MATERIALIZED (
    SELECT u.bucket, n.number,
           sum(u.attempts) AS attempts, sum(u.calls) AS calls, sum(u.failures) AS failures, sum(u.unreported) AS unreported,
           sum(u.unpriced) AS unpriced, sum(u.prompt_tokens) AS prompt_tokens,
           sum(u.completion_tokens) AS completion_tokens, sum(u.audio_us) AS audio_us, sum(u.model_us) AS model_us,
           sum(u.bytes_in) AS bytes_in, sum(u.bytes_out) AS bytes_out, sum(u.sessions) AS sessions,
           sum(u.cost) AS cost
    FROM (
        SELECT r.bucket, h.dims_id,
               h.attempts, h.calls, h.failures, h.unreported, h.unpriced, h.prompt_tokens, h.completion_tokens, h.audio_us,
               h.model_us, h.bytes_in, h.bytes_out, h.sessions, h.cost
        FROM range r
        CROSS JOIN LATERAL (SELECT * FROM usage_sum WHERE tenant_id = ANY (:tenant_ids::int[]) AND broad = :broad
                            AND unit = r.unit AND starts_at >= r.low AND starts_at < r.high OFFSET 0) h
    ) u JOIN numbered n ON n.id = u.dims_id
    GROUP BY u.bucket, n.number
), label AS MATERIALIZED (
    SELECT DISTINCT ON (number) * FROM numbered ORDER BY number
), fresh AS MATERIALIZED ( -- deltas, with their dimensions spelled out
    SELECT r.bucket, u.tenant_id, t.name AS tenant_name, coalesce(b.key_id, '') AS key_id, coalesce(b.user_id, '') AS user_id,
           coalesce(s.owner_service, '') AS owner_service, coalesce(s.task_type, '') AS task_type,
           coalesce(s.model_profile, '') AS model_profile, u.provider, u.model, u.version, u.app, u.price,
           u.attempts, u.calls, u.failures, u.unreported, u.unpriced, u.prompt_tokens, u.completion_tokens, u.audio_us,
           u.model_us, u.bytes_in, u.bytes_out, u.sessions, u.cost
    FROM usage_delta u
    JOIN range r ON u.at >= r.low AND u.at < r.high
    JOIN usage_tenant t ON t.id = u.tenant_id
    LEFT JOIN series s ON s.tenant_id = u.tenant_id AND s.id = u.series_id
    LEFT JOIN submitter b ON b.tenant_id = u.tenant_id AND b.id = u.submitter_id
    WHERE u.tenant_id = ANY (:tenant_ids::int[])
), grouped AS MATERIALIZED (
    SELECT u.bucket, u.tenant_name, u.key_id, u.user_id, u.owner_service, u.task_type, u.model_profile,
           u.provider, u.model, u.version, u.app, u.price,
           sum(u.attempts) AS attempts, sum(u.calls) AS calls, sum(u.failures) AS failures, sum(u.unreported) AS unreported,
           sum(u.unpriced) AS unpriced, sum(u.prompt_tokens) AS prompt_tokens,
           sum(u.completion_tokens) AS completion_tokens, sum(u.audio_us) AS audio_us, sum(u.model_us) AS model_us,
           sum(u.bytes_in) AS bytes_in, sum(u.bytes_out) AS bytes_out, sum(u.sessions) AS sessions,
           sum(u.cost) AS cost
    FROM (
        SELECT r.bucket, l.tenant_name, l.key_id, l.user_id, l.owner_service, l.task_type, l.model_profile,
               l.provider, l.model, l.version, l.app, l.price,
               r.attempts, r.calls, r.failures, r.unreported, r.unpriced, r.prompt_tokens, r.completion_tokens, r.audio_us,
               r.model_us, r.bytes_in, r.bytes_out, r.sessions, r.cost
        FROM rolled r JOIN label l ON l.number = r.number
        UNION ALL
        SELECT d.bucket,
               CASE WHEN 'tenant' = ANY (:by::text[]) THEN d.tenant_name END COLLATE "C" AS tenant_name,
               CASE WHEN 'key' = ANY (:by::text[]) THEN d.key_id END COLLATE "C" AS key_id,
               CASE WHEN 'user' = ANY (:by::text[]) THEN d.user_id END COLLATE "C" AS user_id,
               CASE WHEN 'owner_service' = ANY (:by::text[]) THEN d.owner_service END COLLATE "C" AS owner_service,
               CASE WHEN 'task_type' = ANY (:by::text[]) THEN d.task_type END COLLATE "C" AS task_type,
               CASE WHEN 'model_profile' = ANY (:by::text[]) THEN d.model_profile END COLLATE "C" AS model_profile,
               CASE WHEN 'provider' = ANY (:by::text[]) THEN d.provider END COLLATE "C" AS provider,
               CASE WHEN 'model' = ANY (:by::text[]) THEN d.model END COLLATE "C" AS model,
               CASE WHEN 'version' = ANY (:by::text[]) THEN d.version END COLLATE "C" AS version,
               CASE WHEN 'app' = ANY (:by::text[]) THEN d.app END COLLATE "C" AS app,
               CASE WHEN 'price' = ANY (:by::text[]) THEN d.price END COLLATE "C" AS price,
               d.attempts, d.calls, d.failures, d.unreported, d.unpriced, d.prompt_tokens, d.completion_tokens, d.audio_us,
               d.model_us, d.bytes_in, d.bytes_out, d.sessions, d.cost
        FROM fresh d
        WHERE true
          AND (:tenants::text[] IS NULL OR d.tenant_name = ANY (:tenants))
          AND (:keys::text[] IS NULL OR d.key_id = ANY (:keys))
          AND (:users::text[] IS NULL OR d.user_id = ANY (:users))
          AND (:owner_services::text[] IS NULL OR d.owner_service = ANY (:owner_services))
          AND (:task_types::text[] IS NULL OR d.task_type = ANY (:task_types))
          AND (:model_profiles::text[] IS NULL OR d.model_profile = ANY (:model_profiles))
          AND (:providers::text[] IS NULL OR d.provider = ANY (:providers))
          AND (:models::text[] IS NULL OR d.model = ANY (:models))
          AND (:versions::text[] IS NULL OR d.version = ANY (:versions))
          AND (:apps::text[] IS NULL OR d.app = ANY (:apps))
          AND (:prices::text[] IS NULL OR d.price = ANY (:prices))
    ) u
    GROUP BY u.bucket, u.tenant_name, u.key_id, u.user_id, u.owner_service, u.task_type, u.model_profile,
             u.provider, u.model, u.version, u.app, u.price
)
(
    SELECT bucket, tenant_name, key_id, user_id, owner_service, task_type, model_profile, provider, model, version, app, price,
       attempts, calls, failures, unreported, unpriced, prompt_tokens, completion_tokens, audio_us, model_us, bytes_in,
       bytes_out, sessions, cost
    FROM grouped
    ORDER BY bucket, cost DESC, calls DESC, tenant_name, key_id, user_id, owner_service, task_type, model_profile, provider, model, version, app, price
    LIMIT :limit::int
)
UNION ALL
SELECT -1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       coalesce(sum(attempts), 0), coalesce(sum(calls), 0), coalesce(sum(failures), 0), coalesce(sum(unreported), 0),
       coalesce(sum(unpriced), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
       coalesce(sum(audio_us), 0), coalesce(sum(model_us), 0), coalesce(sum(bytes_in), 0), coalesce(sum(bytes_out), 0),
       coalesce(sum(sessions), 0), coalesce(sum(cost), 0)
FROM grouped;
