-- Quotas. A gateway takes a slice of what a quota has left and admits requests from it in memory; near the end of a quota the
-- slices shrink to single requests. A slice that its process does not renew expires.

CREATE TABLE quota (
    tenant_id integer NOT NULL REFERENCES tenant,
    id        uuid NOT NULL DEFAULT gen_random_uuid(),
    key_id    text NOT NULL, -- that it limits; '': not a key
    user_id   text NOT NULL, -- that it limits; '': not a user; '*': every user, each on their own
    measure   text NOT NULL CHECK (measure IN ('calls_at_once', 'calls', 'jobs', 'pending_jobs', 'stored_bytes', 'stored_items',
                                                   'tokens', 'audio_seconds', 'model_seconds', 'cost')),
    per       text NOT NULL CHECK (per IN ('', 'minute', 'hour', 'day', 'month')),
    most      bigint NOT NULL CHECK (most >= 0), -- seconds are in microseconds, cost in 10^-12
    on_crash  text NOT NULL CHECK (on_crash IN ('free', 'charge')), -- what happens to a slice that expires
    strict    boolean NOT NULL CHECK (NOT strict OR measure = 'tokens'), -- calls reserve what they can use
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, key_id, user_id, measure, per),
    CHECK (key_id = '' OR user_id = ''),
    CHECK ((per = '') = (measure IN ('calls_at_once', 'pending_jobs', 'stored_bytes', 'stored_items'))),
    CHECK (on_crash = 'free' OR (per IN ('hour', 'day', 'month') AND (strict OR measure IN ('calls', 'jobs')))),
    CHECK (per <> 'minute' OR measure IN ('calls', 'jobs'))
);

-- What is used of a quota in one window. A new window is a new row; limits without a calendar window have one row, whose
-- window starts at the epoch. Tokens, seconds and cost are settled by the roll-up of usage, and nothing of them is held, except
-- that live calls reserve and settle strict tokens. Of the others always settled + held <= most, unless the limit was lowered.
CREATE TABLE quota_use (
    tenant_id    integer NOT NULL,
    quota_id     uuid NOT NULL,
    subject      text NOT NULL,        -- the user, of a quota for every user; else ''
    window_start timestamptz NOT NULL,
    settled      bigint NOT NULL DEFAULT 0, -- used for good in this window
    held         bigint NOT NULL DEFAULT 0 CHECK (held >= 0), -- the sum of the slices: in flight, or not used yet
    unaccounted  bigint NOT NULL DEFAULT 0, -- the part of settled that was booked because a process crashed
    recent       bigint[],             -- per minute: what was used in each of the last 61 seconds, the newest last
    recent_at    bigint,               -- the newest of these seconds
    touched_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, quota_id, subject, window_start),
    FOREIGN KEY (tenant_id, quota_id) REFERENCES quota ON DELETE CASCADE
) WITH (fillfactor = 50);
CREATE INDEX quota_use_touched ON quota_use (touched_at);

-- What a process holds of a quota. "granted" and "used" count since the slice exists, so that repeating a report changes
-- nothing: granted - used is its part of "held".
CREATE TABLE quota_slice (
    tenant_id    integer NOT NULL,
    quota_id     uuid NOT NULL,
    subject      text NOT NULL,
    window_start timestamptz NOT NULL,
    id           uuid NOT NULL,
    granted      bigint NOT NULL,
    used         bigint NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, quota_id, subject, window_start, id),
    FOREIGN KEY (tenant_id, quota_id, subject, window_start) REFERENCES quota_use ON DELETE CASCADE,
    CHECK (granted >= used)
) WITH (fillfactor = 50);
CREATE INDEX quota_slice_expiry ON quota_slice (expires_at);

-- The bytes of a tenant's files, and of the parts of uploads that are not completed.
CREATE FUNCTION quota_stored(the_tenant integer) RETURNS bigint LANGUAGE sql STABLE RETURN (
    SELECT coalesce(sum(size_bytes), 0) FROM (
        SELECT size_bytes FROM blob WHERE tenant_id = the_tenant
        UNION ALL SELECT size_bytes FROM blob_upload_part WHERE tenant_id = the_tenant) b
)::bigint;

-- The jobs that a quota of pending jobs of a key or user counts, while they are pending. The job's own transaction inserts the
-- row, and no statement that moves the job changes it: quota_pending() finds out where each job is, and removes the rows of those
-- that have finished. So only jobs that such a quota concerns cost anything. A retry by hand inserts another row for its job,
-- because the first one may be in the middle of its removal.
CREATE TABLE quota_job (
    tenant_id integer NOT NULL,
    quota_id  uuid NOT NULL,
    subject   text NOT NULL,
    job_id    uuid NOT NULL,
    turn      bigint NOT NULL, -- ready.seq when the row was inserted; 0: a scheduled job
    PRIMARY KEY (tenant_id, quota_id, subject, job_id, turn),
    FOREIGN KEY (tenant_id, quota_id) REFERENCES quota ON DELETE CASCADE
);

-- Returns how many jobs are pending of those that a quota counts for a subject, and removes those that have finished. Running
-- ones stay, because they may become pending again. Locks: the rows removed. Indexes: primary keys; unique index of ready.
CREATE FUNCTION quota_pending(the_tenant integer, the_quota uuid, the_subject text, OUT pending bigint) LANGUAGE plpgsql AS $$
BEGIN
    WITH found AS MATERIALIZED (
        SELECT c.ctid AS row_tid, c.job_id,
               EXISTS (SELECT FROM ready WHERE tenant_id = the_tenant AND job_id = c.job_id OFFSET 0)
               OR EXISTS (SELECT FROM later WHERE tenant_id = the_tenant AND job_id = c.job_id OFFSET 0) AS waits,
               EXISTS (SELECT FROM lease WHERE tenant_id = the_tenant AND job_id = c.job_id OFFSET 0) AS runs
        FROM quota_job c WHERE c.tenant_id = the_tenant AND c.quota_id = the_quota AND c.subject = the_subject
    ), gone AS (
        DELETE FROM quota_job WHERE ctid = ANY (ARRAY(SELECT row_tid FROM found WHERE NOT waits AND NOT runs))
    )
    SELECT count(DISTINCT f.job_id) INTO pending FROM found f WHERE f.waits;
END $$;

-- The window of a quota that contains a moment, in the tenant's time zone. Hours are those of the wall clock, so
-- the hour that summer time repeats is two windows; a day may have 23 or 25 hours.
CREATE FUNCTION quota_window(per text, zone text, moment timestamptz, OUT starts_at timestamptz, OUT ends_at timestamptz)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    CASE per
        WHEN '', 'minute' THEN
            starts_at := 'epoch';
        WHEN 'hour' THEN
            starts_at := date_trunc('hour', moment, zone);
            ends_at := starts_at + interval '1 hour';
        ELSE
            starts_at := date_trunc(per, moment, zone);
            ends_at := (date_trunc(per, moment AT TIME ZONE zone) + ('1 ' || per)::interval) AT TIME ZONE zone;
    END CASE;
END $$;

-- What was used in each of the last 61 seconds, moved on to a later second. 61 whole seconds cover any 60 s.
CREATE FUNCTION quota_recent(recent bigint[], recent_at bigint, second bigint) RETURNS bigint[] LANGUAGE sql IMMUTABLE
    RETURN CASE
        WHEN recent IS NULL OR second - recent_at >= 61 THEN array_fill(0::bigint, ARRAY[61])
        WHEN second <= recent_at THEN recent
        ELSE recent[(second - recent_at + 1)::integer:61] || array_fill(0::bigint, ARRAY[(second - recent_at)::integer])
    END;

-- Ends the slices of one window that have expired: "free" gives back what they held, "charge" books it as used. The caller
-- holds the lock of the row of quota_use.
CREATE FUNCTION quota_expire(INOUT used quota_use, on_crash text) LANGUAGE plpgsql AS $$
DECLARE
    lost bigint;
BEGIN
    WITH gone AS (
        DELETE FROM quota_slice s
        WHERE s.tenant_id = used.tenant_id AND s.quota_id = used.quota_id AND s.subject = used.subject
          AND s.window_start = used.window_start AND s.expires_at <= clock()
        RETURNING s.granted - s.used AS unused
    )
    SELECT coalesce(sum(unused), 0) INTO lost FROM gone;
    used.held := used.held - lost;
    IF on_crash = 'charge' THEN
        used.unaccounted := used.unaccounted + lost;
        used.settled := used.settled + lost;
    END IF;
END $$;

-- Brings slices and the database in step: books what was used, and grants or takes back. One entry per slice:
-- window (NULL: the current one), what the slice has used since it exists and how much of that is known to be booked, what
-- requests in flight hold of it ("reserved"), what it must keep ("floor"), what it needs for requests that wait ("least"), and
-- what it would like to hold ("best"). At most a share 1/(2 * slices) of what is left is granted beyond "least", and nothing
-- of the last 20: these go request by request.
--
-- Repeating a call changes nothing, because all numbers are totals. A slice is decided upon by the columns of the row that
-- is locked here, never by a snapshot. Locks: rows of quota_use in the order of their keys.
CREATE FUNCTION quota_sync(tenants integer[], quotas uuid[], subjects text[], windows timestamptz[], ids uuid[], useds bigint[],
                           ackeds bigint[], reserveds bigint[], floors bigint[], leasts bigint[], bests bigint[])
RETURNS TABLE (place integer, window_start timestamptz, ends_in float8, granted bigint, used_by_all bigint, most bigint,
               others bigint, spare bigint, resets_in float8)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    i integer;
    rule record;
    span record;
    u quota_use;
    slice quota_slice;
    known boolean;
    second bigint := floor(extract(epoch FROM clock()));
    delta bigint;
    mine bigint;
    free bigint;
    slices bigint;
    target bigint;
    kept bigint;
BEGIN
    FOR i IN SELECT e.place FROM unnest(tenants, quotas, subjects, windows) WITH ORDINALITY AS e(tenant, quota, subject, start, place)
             ORDER BY e.tenant, e.quota, e.subject, e.start NULLS LAST, e.place
    LOOP
        SELECT q.measure, q.per, q.most, q.on_crash, q.key_id <> '' OR q.user_id <> '' AS narrow, t.time_zone INTO rule
        FROM quota q JOIN tenant t ON t.id = q.tenant_id WHERE q.tenant_id = tenants[i] AND q.id = quotas[i];
        CONTINUE WHEN NOT FOUND;
        SELECT * INTO span FROM quota_window(rule.per, rule.time_zone, coalesce(nullif(windows[i], 'epoch'), clock()));
        IF windows[i] IS NOT NULL THEN
            span.starts_at := windows[i];
        END IF;
        LOOP
            SELECT * INTO u FROM quota_use x WHERE x.tenant_id = tenants[i] AND x.quota_id = quotas[i]
                AND x.subject = subjects[i] AND x.window_start = span.starts_at FOR UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO quota_use (tenant_id, quota_id, subject, window_start, touched_at)
            VALUES (tenants[i], quotas[i], subjects[i], span.starts_at, clock()) ON CONFLICT DO NOTHING;
        END LOOP;
        IF rule.per = 'minute' THEN
            u.recent := quota_recent(u.recent, u.recent_at, second);
            u.recent_at := greatest(u.recent_at, second);
        END IF;
        SELECT * INTO slice FROM quota_slice s WHERE s.tenant_id = u.tenant_id AND s.quota_id = u.quota_id
            AND s.subject = u.subject AND s.window_start = u.window_start AND s.id = ids[i] AND s.expires_at > clock();
        known := FOUND;
        u := quota_expire(u, rule.on_crash);
        -- Of a slice that has expired, what it used without a report was given back, or was booked already.
        delta := CASE WHEN known THEN useds[i] - slice.used WHEN rule.on_crash = 'free' THEN useds[i] - ackeds[i] ELSE 0 END;
        mine := CASE WHEN known THEN greatest(0, slice.granted - useds[i]) ELSE 0 END;
        IF known THEN
            u.held := u.held - (slice.granted - slice.used - mine);
        END IF;
        IF rule.per = 'minute' THEN
            u.recent[61] := u.recent[61] + delta;
            u.settled := (SELECT sum(n) FROM unnest(u.recent) n);
        ELSIF rule.measure = 'pending_jobs' AND rule.narrow THEN
            u.settled := quota_pending(u.tenant_id, u.quota_id, u.subject);
        ELSIF rule.measure = 'pending_jobs' THEN
            u.settled := (SELECT coalesce(sum(pending), 0) FROM (
                SELECT pending FROM stat WHERE tenant_id = u.tenant_id
                UNION ALL SELECT pending FROM stat_delta WHERE tenant_id = u.tenant_id) p);
        ELSIF rule.measure = 'stored_bytes' THEN
            u.settled := quota_stored(u.tenant_id);
        ELSIF rule.measure <> 'calls_at_once' THEN
            u.settled := u.settled + delta;
        END IF;
        free := rule.most - u.settled - u.held + mine;
        slices := (SELECT count(*) FROM quota_slice s WHERE s.tenant_id = u.tenant_id AND s.quota_id = u.quota_id
                   AND s.subject = u.subject AND s.window_start = u.window_start AND s.id <> ids[i]) + 1;
        spare := CASE WHEN free - leasts[i] < 20 THEN 0 ELSE (free - leasts[i]) / (2 * slices) END;
        kept := CASE WHEN known THEN floors[i] ELSE reserveds[i] END;
        target := greatest(kept, least(free, greatest(leasts[i], least(bests[i], leasts[i] + spare))));
        u.held := u.held - mine + target;
        -- A slice is removed by a call that books nothing: one that is repeated would book again.
        IF target = 0 AND delta = 0 THEN
            DELETE FROM quota_slice s WHERE s.tenant_id = u.tenant_id AND s.quota_id = u.quota_id AND s.subject = u.subject
                AND s.window_start = u.window_start AND s.id = ids[i];
        ELSE
            INSERT INTO quota_slice AS s (tenant_id, quota_id, subject, window_start, id, granted, used, expires_at)
            VALUES (u.tenant_id, u.quota_id, u.subject, u.window_start, ids[i], useds[i] + target, useds[i],
                    clock() + interval '30 s')
            ON CONFLICT (tenant_id, quota_id, subject, window_start, id)
            DO UPDATE SET granted = excluded.granted, used = excluded.used, expires_at = excluded.expires_at;
        END IF;
        UPDATE quota_use x SET settled = u.settled, held = u.held, unaccounted = u.unaccounted, recent = u.recent,
            recent_at = u.recent_at, touched_at = clock()
        WHERE x.tenant_id = u.tenant_id AND x.quota_id = u.quota_id AND x.subject = u.subject
            AND x.window_start = u.window_start;
        place := i;
        window_start := u.window_start;
        ends_in := extract(epoch FROM span.ends_at - clock());
        granted := useds[i] + target;
        used_by_all := u.settled;
        most := rule.most;
        others := u.held - target;
        resets_in := CASE rule.per WHEN '' THEN NULL WHEN 'minute' THEN
            coalesce((SELECT min(o) FROM unnest(u.recent) WITH ORDINALITY AS r(n, o) WHERE n > 0), 60) ELSE ends_in END;
        RETURN NEXT;
    END LOOP;
END $$;
