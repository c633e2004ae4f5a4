-- The usage ledger. The statement that ends attempts appends deltas, and so does each flush of a process's live calls. One
-- housekeeper at a time moves deltas into the roll-ups by hour, day and month, and into the detail. The exact value at any time
-- is a roll-up + usage_delta in one snapshot.
--
-- Measures: attempts of jobs that ended; calls of models and providers, and how many of them failed (an attempt whose worker
-- reports no calls is one call); attempts that ended without a report from their worker; calls for which there was no price;
-- tokens; microseconds of sound; microseconds in the model or at the provider (of an attempt without reported calls: from
-- claim to report); bytes of inputs and outputs; calls whose input came in parts (sessions); cost, in 10^-12 of the price list's currency.
-- Dimensions are NOT NULL; '' and 0 mean "none", because NULLs would be distinct from each other under UNIQUE.

CREATE TABLE usage_delta (
    tenant_id         integer NOT NULL,
    at                timestamptz NOT NULL, -- when the attempts or calls ended
    series_id         integer NOT NULL,     -- 0: live calls
    submitter_id      integer NOT NULL,
    provider          text NOT NULL DEFAULT '',
    model             text NOT NULL DEFAULT '',
    version           text NOT NULL DEFAULT '',
    app               text NOT NULL DEFAULT '',
    price             text NOT NULL DEFAULT '', -- of the cost; '': there was none
    attempts          bigint NOT NULL DEFAULT 0,
    calls             bigint NOT NULL DEFAULT 0,
    failures          bigint NOT NULL DEFAULT 0,
    unreported        bigint NOT NULL DEFAULT 0,
    unpriced          bigint NOT NULL DEFAULT 0,
    prompt_tokens     bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    audio_us          bigint NOT NULL DEFAULT 0,
    model_us          bigint NOT NULL DEFAULT 0,
    bytes_in          bigint NOT NULL DEFAULT 0,
    bytes_out         bigint NOT NULL DEFAULT 0,
    sessions          bigint NOT NULL DEFAULT 0,
    cost              numeric NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off);

-- The combinations of dimensions that occur. Each is there once with its submitter, and once without one (broad): reports that
-- name neither keys nor users read sums that do not grow with the number of users. "key" is a digest of the other columns,
-- which may be too long for an index.
CREATE TABLE usage_dims (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     integer NOT NULL,
    key           bytea NOT NULL,
    broad         boolean NOT NULL,
    series_id     integer NOT NULL,
    submitter_id  integer NOT NULL,
    key_id        text NOT NULL,
    user_id       text NOT NULL,
    owner_service text NOT NULL,
    task_type     text NOT NULL,
    model_profile text NOT NULL,
    provider      text NOT NULL,
    model         text NOT NULL,
    version       text NOT NULL,
    app           text NOT NULL,
    price         text NOT NULL,
    used_on       date NOT NULL, -- the last day on which usage with a submitter was added
    UNIQUE (tenant_id, key)
);
CREATE INDEX usage_dims_used ON usage_dims (used_on) WHERE NOT broad;

-- Sums of each hour, day and month of UTC.
CREATE TABLE usage_sum (
    tenant_id         integer NOT NULL,
    broad             boolean NOT NULL, -- of its dimensions; the rows of each kind add up to the same sums
    unit              text COLLATE "C" NOT NULL, -- 'hour', 'day' or 'month'
    starts_at         timestamptz NOT NULL,
    dims_id           bigint NOT NULL,
    attempts          bigint NOT NULL,
    calls             bigint NOT NULL,
    failures          bigint NOT NULL,
    unreported        bigint NOT NULL,
    unpriced          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    audio_us          bigint NOT NULL,
    model_us          bigint NOT NULL,
    bytes_in          bigint NOT NULL,
    bytes_out         bigint NOT NULL,
    sessions          bigint NOT NULL,
    cost              numeric NOT NULL,
    PRIMARY KEY (tenant_id, broad, unit, starts_at, dims_id)
) PARTITION BY LIST (unit); -- so that the few rows of months and days lie close together
CREATE TABLE usage_hour PARTITION OF usage_sum FOR VALUES IN ('hour') WITH (fillfactor = 70);
CREATE TABLE usage_day PARTITION OF usage_sum FOR VALUES IN ('day') WITH (fillfactor = 70);
CREATE TABLE usage_month PARTITION OF usage_sum FOR VALUES IN ('month') WITH (fillfactor = 70);

-- Calls to providers since the beginning, for the statistics of jobs.
CREATE TABLE usage_total (
    tenant_id         integer NOT NULL,
    series_id         integer NOT NULL,
    provider          text NOT NULL,
    model             text NOT NULL,
    calls             bigint NOT NULL,
    failures          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    audio_us          bigint NOT NULL,
    model_us          bigint NOT NULL,
    PRIMARY KEY (tenant_id, series_id, provider, model)
) WITH (fillfactor = 50);

-- The deltas that were rolled up. They are kept for PENSTOCK_USAGE_DETAIL_DAYS.
CREATE TABLE usage_detail (
    tenant_id         integer NOT NULL,
    at                timestamptz NOT NULL,
    dims_id           bigint NOT NULL,
    attempts          bigint NOT NULL,
    calls             bigint NOT NULL,
    failures          bigint NOT NULL,
    unreported        bigint NOT NULL,
    unpriced          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    audio_us          bigint NOT NULL,
    model_us          bigint NOT NULL,
    bytes_in          bigint NOT NULL,
    bytes_out         bigint NOT NULL,
    sessions          bigint NOT NULL,
    cost              numeric NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX usage_detail_at ON usage_detail USING brin (at);
CREATE TABLE usage_detail_default PARTITION OF usage_detail DEFAULT;

-- Processes that flush live usage, with the number of their last flush. A flush whose number is not above it was written
-- before.
CREATE TABLE usage_source (
    id         uuid PRIMARY KEY,
    last_flush bigint NOT NULL,
    flushed_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The prices that costs were computed with, by their id, a digest of the content.
CREATE TABLE usage_price (
    id      text PRIMARY KEY,
    content json NOT NULL,
    used_at timestamptz NOT NULL
);

-- A sum that never fails: values that a hostile worker reports must not stop the roll-up.
CREATE FUNCTION added(total bigint, more numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN least(total + more, 9000000000000000000)::bigint;

SELECT ensure_day((now() AT TIME ZONE 'UTC')::date + ahead, '{usage_detail}') FROM generate_series(-1, 7) ahead;

-- The names of tenants, also of those that were deleted.
CREATE VIEW usage_tenant AS SELECT id, name FROM tenant UNION ALL SELECT id, name FROM former_tenant;

-- Whether hours of a time zone begin within hours of UTC, now or in half a year. Then its tenants' sums of hours are kept by
-- quarters of hours, so that they add up to its days.
CREATE FUNCTION usage_by_quarters(zone text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN extract(minute FROM clock() AT TIME ZONE zone - clock() AT TIME ZONE 'UTC') <> 0
        OR extract(minute FROM (clock() + interval '183 days') AT TIME ZONE zone
                             - (clock() + interval '183 days') AT TIME ZONE 'UTC') <> 0;
