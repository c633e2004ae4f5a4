-- Apps. A request of an app is a run of its flow, a job with the owner service "app/NAME".

-- The apps that workers have, by name and version. Workers renew seen_at. manifest is NULL (and version '') while an app has never
-- been valid there.
CREATE TABLE app (
    name         text NOT NULL,
    version      text NOT NULL,
    manifest     json,
    problems     json NOT NULL, -- what is wrong with the files of the app: file, key, detail
    published_at timestamptz NOT NULL,
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (name, version),
    CHECK ((manifest IS NULL) = (version = ''))
) WITH (fillfactor = 50);

-- The schemas of the inputs of models that workers of services have. Workers renew seen_at. There are several of a model while a
-- new version is deployed.
CREATE TABLE app_model (
    model       text NOT NULL,
    fingerprint text NOT NULL,
    schema      json NOT NULL,
    seen_at     timestamptz NOT NULL,
    PRIMARY KEY (model, fingerprint)
) WITH (fillfactor = 50);

CREATE INDEX series_of_apps ON series (tenant_id) WHERE owner_service LIKE 'app/%';

-- How far the events of a tenant have become records of requests. There is a row for each tenant that has made a request.
CREATE TABLE app_cursor (
    tenant_id integer PRIMARY KEY REFERENCES tenant,
    position  bigint NOT NULL
) WITH (fillfactor = 50);

-- The records of requests. A row changes when its run begins, ends or is retried, and when an attempt of one of its jobs ends.
-- position is that of the last event that has changed the row: events up to it have no effect any more. Times are in
-- microseconds, costs in 10^-12 of the price list's currency.
CREATE TABLE app_request (
    tenant_id         integer NOT NULL,
    run_id            uuid NOT NULL,
    app               text NOT NULL,
    user_id           text NOT NULL,
    day               date NOT NULL, -- on which it was made, in the time zone that the tenant had then
    status            text NOT NULL CHECK (status IN ('open', 'completed', 'failed', 'cancelled')),
    created_at        timestamptz NOT NULL,
    started_at        timestamptz,
    finished_at       timestamptz,
    error_category    text,
    units             numeric NOT NULL, -- of the app's price
    attempts          bigint NOT NULL,  -- of the jobs of its flow
    calls             bigint NOT NULL,
    failures          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    audio_us          bigint NOT NULL,
    model_us          bigint NOT NULL,
    cost              numeric NOT NULL,
    position          bigint NOT NULL,
    untimed           boolean NOT NULL DEFAULT false, -- the app's timeout has ended it, or it was retried since
    drop_result_at    timestamptz, -- when the result is removed, if the app limits that
    PRIMARY KEY (tenant_id, run_id),
    CHECK ((status = 'open') = (finished_at IS NULL))
) PARTITION BY RANGE (run_id);
CREATE INDEX app_request_user ON app_request (tenant_id, app, user_id, run_id);
CREATE INDEX app_request_timed ON app_request (app, created_at) WHERE status = 'open' AND NOT untimed;
CREATE INDEX app_request_drop ON app_request (drop_result_at) WHERE drop_result_at IS NOT NULL;
CREATE INDEX app_request_app ON app_request (tenant_id, app, run_id);
CREATE TABLE app_request_default PARTITION OF app_request DEFAULT;

-- Sums of the records of a day, by user, and of all users together with the user ''. times[n] is how many completed requests took
-- a time of the n-th class, see penstock.apps.sums.
CREATE TABLE app_day (
    tenant_id         integer NOT NULL,
    app               text NOT NULL,
    user_id           text NOT NULL,
    day               date NOT NULL,
    requests          bigint NOT NULL,
    completed         bigint NOT NULL,
    failed            bigint NOT NULL,
    cancelled         bigint NOT NULL,
    wait_us           bigint NOT NULL, -- from being made to the start, of those that have ended
    run_us            bigint NOT NULL, -- from the start to the end
    units             numeric NOT NULL,
    attempts          bigint NOT NULL,
    calls             bigint NOT NULL,
    failures          bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    audio_us          bigint NOT NULL,
    model_us          bigint NOT NULL,
    cost              numeric NOT NULL,
    times             integer[] NOT NULL,
    PRIMARY KEY (tenant_id, app, user_id, day)
) WITH (fillfactor = 70);

-- Two lists of numbers, added.
CREATE FUNCTION app_times_added(one integer[], other integer[]) RETURNS integer[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT coalesce(array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY n), '{}')
            FROM unnest(one, other) WITH ORDINALITY AS u(x, y, n));

-- The number at a path in a result; 0 if there is none, or not one from 0 to 10^12. JSON with U+0000 can be stored, but not searched.
CREATE FUNCTION app_units(result json, path text[]) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    found json := result #> path;
    units numeric;
BEGIN
    IF found IS NULL OR json_typeof(found) <> 'number' THEN
        RETURN 0;
    END IF;
    units := found::text::numeric;
    RETURN CASE WHEN units BETWEEN 0 AND 1e12 THEN round(units, 6) ELSE 0 END;
EXCEPTION WHEN untranslatable_character OR data_exception THEN
    RETURN 0;
END $$;

SELECT ensure_day((now() AT TIME ZONE 'UTC')::date + ahead, '{app_request}') FROM generate_series(-1, 7) ahead;
