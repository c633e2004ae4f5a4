-- Roll-up and retention of usage. Loaded by penstock.usage.sql.rollup.


-- name: any_delta()
-- tenant: every (no row)
-- Returns whether there is any delta.
SELECT EXISTS (SELECT FROM usage_delta);


-- name: take_turn()
-- tenant: every (no row)
-- Locks the roll-up for this transaction; false when another process rolls up. It is a statement of its own, so that the
-- next one sees everything that earlier roll-ups have committed.
SELECT pg_try_advisory_xact_lock(hashtext('penstock.roll_up_usage'));


-- name: roll_up(limit)
-- tenant: every (rows keep their tenant)
-- Moves deltas into the sums of hours, days and months, into the totals, the quotas and the detail, each exactly once, whatever
-- hour it belongs to; returns how many. New dimensions get an id; inserting one that exists already would fail the whole
-- statement, so no usage can be lost that way. Runs in one process at a time.
WITH taken AS MATERIALIZED (
    DELETE FROM usage_delta WHERE ctid = ANY (ARRAY(SELECT ctid FROM usage_delta LIMIT :limit::int)) RETURNING *
), leveled AS MATERIALIZED ( -- each delta twice: with its submitter, and without one
    SELECT x.*, sha256(convert_to(concat_ws(chr(31), x.broad, x.series_id, x.submitter, x.provider, x.model, x.version, x.app,
                                            x.price), 'UTF8')) AS key
    FROM (
        SELECT t.*, l.broad, CASE WHEN l.broad THEN 0 ELSE t.submitter_id END AS submitter
        FROM taken t CROSS JOIN (VALUES (false), (true)) AS l(broad)
    ) x
), found AS MATERIALIZED (
    SELECT DISTINCT ON (tenant_id, key) tenant_id, key, broad, series_id, submitter, provider, model, version, app, price
    FROM leveled ORDER BY tenant_id, key
), known AS MATERIALIZED (
    SELECT d.id, d.tenant_id, d.key, NOT d.broad AND d.used_on < (clock() AT TIME ZONE 'UTC')::date AS used_before
    FROM found f
    CROSS JOIN LATERAL (SELECT id, tenant_id, key, broad, used_on FROM usage_dims WHERE tenant_id = f.tenant_id AND key = f.key) d
), used AS ( -- once a day for each, so that retention does not remove them
    UPDATE usage_dims SET used_on = (clock() AT TIME ZONE 'UTC')::date
    WHERE id = ANY (ARRAY(SELECT id FROM known WHERE used_before))
), made AS (
    INSERT INTO usage_dims (tenant_id, key, broad, series_id, submitter_id, key_id, user_id, owner_service, task_type,
                            model_profile, provider, model, version, app, price, used_on)
    SELECT f.tenant_id, f.key, f.broad, f.series_id, f.submitter, coalesce(b.key_id, ''), coalesce(b.user_id, ''),
           coalesce(s.owner_service, ''), coalesce(s.task_type, ''), coalesce(s.model_profile, ''), f.provider, f.model,
           f.version, f.app, f.price, (clock() AT TIME ZONE 'UTC')::date
    FROM found f
    LEFT JOIN series s ON s.tenant_id = f.tenant_id AND s.id = f.series_id
    LEFT JOIN submitter b ON b.tenant_id = f.tenant_id AND b.id = f.submitter
    WHERE NOT EXISTS (SELECT FROM known k WHERE k.tenant_id = f.tenant_id AND k.key = f.key)
    RETURNING id, tenant_id, key
), entry AS MATERIALIZED (
    SELECT t.*, d.id AS dims_id
    FROM leveled t JOIN (SELECT id, tenant_id, key FROM known UNION ALL SELECT * FROM made) d ON d.tenant_id = t.tenant_id AND d.key = t.key
), kept AS (
    INSERT INTO usage_detail (tenant_id, at, dims_id, attempts, calls, failures, unreported, unpriced, prompt_tokens,
                              completion_tokens, audio_us, model_us, bytes_in, bytes_out, sessions, cost)
    SELECT tenant_id, at, dims_id, attempts, calls, failures, unreported, unpriced, prompt_tokens, completion_tokens,
           audio_us, model_us, bytes_in, bytes_out, sessions, cost
    FROM entry WHERE NOT broad
), budgets AS ( -- the quotas of tokens, seconds and cost; locks rows of quota_use in the order of their keys
    INSERT INTO quota_use AS x (tenant_id, quota_id, subject, window_start, settled, touched_at)
    SELECT q.tenant_id, q.id, CASE WHEN q.user_id = '*' THEN b.user_id ELSE '' END, w.starts_at,
           added(0, sum(CASE q.measure WHEN 'tokens' THEN t.prompt_tokens::numeric + t.completion_tokens
                                       WHEN 'audio_seconds' THEN t.audio_us WHEN 'cost' THEN t.cost
                                       ELSE t.model_us END)), clock()
    FROM taken t
    JOIN quota q ON q.tenant_id = t.tenant_id AND q.measure IN ('tokens', 'audio_seconds', 'model_seconds', 'cost')
    JOIN tenant n ON n.id = t.tenant_id
    LEFT JOIN submitter b ON b.tenant_id = t.tenant_id AND b.id = t.submitter_id
    CROSS JOIN LATERAL quota_window(q.per, n.time_zone, t.at) w
    WHERE NOT (q.strict AND t.series_id = 0) -- live calls have settled strict tokens themselves
      AND q.key_id IN ('', b.key_id) AND (q.user_id IN ('', b.user_id) OR (q.user_id = '*' AND b.user_id <> ''))
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (tenant_id, quota_id, subject, window_start) DO UPDATE SET
        settled = added(x.settled, excluded.settled), touched_at = excluded.touched_at
), zones AS MATERIALIZED (
    SELECT f.tenant_id, coalesce(usage_by_quarters(n.time_zone), false) AS by_quarters
    FROM (SELECT DISTINCT tenant_id FROM found) f LEFT JOIN tenant n ON n.id = f.tenant_id
), hours AS MATERIALIZED ( -- or quarters of hours
    SELECT e.tenant_id, broad,
           CASE WHEN z.by_quarters THEN date_bin('15 minutes', at, 'epoch') ELSE date_trunc('hour', at, 'UTC') END AS hour, dims_id,
           sum(attempts) AS attempts, sum(calls) AS calls, sum(failures) AS failures, sum(unreported) AS unreported,
           sum(unpriced) AS unpriced, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
           sum(audio_us) AS audio_us, sum(model_us) AS model_us, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out,
           sum(sessions) AS sessions, sum(cost) AS cost
    FROM entry e JOIN zones z ON z.tenant_id = e.tenant_id GROUP BY 1, 2, 3, 4
), sums AS (
    INSERT INTO usage_sum AS t (tenant_id, broad, unit, starts_at, dims_id, attempts, calls, failures, unreported, unpriced,
                                prompt_tokens, completion_tokens, audio_us, model_us, bytes_in, bytes_out, sessions, cost)
    SELECT h.tenant_id, h.broad, u.unit, CASE WHEN u.unit = 'hour' THEN h.hour ELSE date_trunc(u.unit, h.hour, 'UTC') END, h.dims_id,
           added(0, sum(h.attempts)), added(0, sum(h.calls)), added(0, sum(h.failures)), added(0, sum(h.unreported)),
           added(0, sum(h.unpriced)), added(0, sum(h.prompt_tokens)), added(0, sum(h.completion_tokens)),
           added(0, sum(h.audio_us)), added(0, sum(h.model_us)), added(0, sum(h.bytes_in)), added(0, sum(h.bytes_out)),
           added(0, sum(h.sessions)), sum(h.cost)
    FROM hours h CROSS JOIN (VALUES ('hour'), ('day'), ('month')) AS u(unit)
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (tenant_id, broad, unit, starts_at, dims_id) DO UPDATE SET
        attempts = added(t.attempts, excluded.attempts), calls = added(t.calls, excluded.calls),
        failures = added(t.failures, excluded.failures), unreported = added(t.unreported, excluded.unreported),
        unpriced = added(t.unpriced, excluded.unpriced), prompt_tokens = added(t.prompt_tokens, excluded.prompt_tokens),
        completion_tokens = added(t.completion_tokens, excluded.completion_tokens),
        audio_us = added(t.audio_us, excluded.audio_us), model_us = added(t.model_us, excluded.model_us),
        bytes_in = added(t.bytes_in, excluded.bytes_in), bytes_out = added(t.bytes_out, excluded.bytes_out),
        sessions = added(t.sessions, excluded.sessions),
        cost = t.cost + excluded.cost
), totals AS (
    INSERT INTO usage_total AS t (tenant_id, series_id, provider, model, calls, failures, prompt_tokens, completion_tokens,
                                  audio_us, model_us)
    SELECT tenant_id, series_id, provider, model,
           added(0, sum(calls)), added(0, sum(failures)), added(0, sum(prompt_tokens)), added(0, sum(completion_tokens)),
           added(0, sum(audio_us)), added(0, sum(model_us))
    FROM entry WHERE provider <> '' AND NOT broad GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (tenant_id, series_id, provider, model) DO UPDATE SET
        calls = added(t.calls, excluded.calls), failures = added(t.failures, excluded.failures),
        prompt_tokens = added(t.prompt_tokens, excluded.prompt_tokens),
        completion_tokens = added(t.completion_tokens, excluded.completion_tokens),
        audio_us = added(t.audio_us, excluded.audio_us), model_us = added(t.model_us, excluded.model_us)
)
SELECT count(*) FROM taken;


-- name: drop_from_default(before)!
-- tenant: every (maintenance)
-- Removes old detail from the default partition, by row.
DELETE FROM usage_detail_default WHERE at < :before::date::timestamp AT TIME ZONE 'UTC';


-- name: drop_old_of_submitters(days, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Removes sums by keys and users of months that ended this number of days ago, a limited number at a time; returns how many. The
-- sums without them stay. Index: primary key of usage_sum.
WITH old AS MATERIALIZED (
    SELECT o.* FROM usage_tenant t
    CROSS JOIN (VALUES ('hour'), ('day'), ('month')) AS u(unit)
    CROSS JOIN LATERAL (
        SELECT s.tenant_id, s.unit, s.starts_at, s.dims_id FROM usage_sum s
        WHERE s.tenant_id = t.id AND NOT s.broad AND s.unit = u.unit
          AND s.starts_at < date_trunc('month', clock() - make_interval(days => :days::int), 'UTC')
        LIMIT :limit::int
    ) o LIMIT :limit::int
), gone AS (
    DELETE FROM usage_sum s USING old o
    WHERE s.tenant_id = o.tenant_id AND NOT s.broad AND s.unit = o.unit AND s.starts_at = o.starts_at AND s.dims_id = o.dims_id
    RETURNING 1
)
SELECT count(*) FROM gone;


-- name: drop_unused_dims(days, limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Removes dimensions with a submitter that no sum has, because they were not used for this number of days and another month;
-- returns how many. Index: usage_dims_used.
WITH gone AS (
    DELETE FROM usage_dims WHERE id = ANY (ARRAY(
        SELECT d.id FROM usage_dims d
        WHERE NOT d.broad AND d.used_on < (clock() AT TIME ZONE 'UTC')::date - :days::int - 31 LIMIT :limit::int
    )) RETURNING 1
)
SELECT count(*) FROM gone;


-- name: forget_sources(days)!
-- tenant: every (no tenant's row)
-- Forgets processes that have flushed nothing for this number of days. Spool files of that age are not replayed.
DELETE FROM usage_source WHERE flushed_at < clock() - make_interval(days => :days::int);
