-- Flows. A run is a job with the task type "flow"; its queue is name@version. The row of a run that has not ended is in
-- "flow_gate" (in the first migration, because a parked run's state is there). What is appended here, partitioned by the day
-- of the run's id like jobs, is its history: steps and turns, and the mail that turns consume.

-- The mail of runs. The ids of one run are 1, 2, 3, … without a gap: they are assigned under the lock of its gate, so
-- a reader that has read up to an id misses nothing below it.
CREATE TABLE flow_mail (
    tenant_id integer NOT NULL,
    run_id    uuid NOT NULL,
    id        integer NOT NULL,
    kind      text NOT NULL, -- ended, fired, signal, cancel
    no        integer,       -- the step that ended or fired
    name      text NOT NULL, -- of a signal
    status    text,          -- of an end
    child_id  uuid,          -- the job that ended; its result is in "done" when value is null and it completed
    value     json,
    category  text,
    message   text,
    key       text,          -- the idempotency key of a signal
    at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, run_id, id)
) PARTITION BY RANGE (run_id);
CREATE INDEX flow_mail_key ON flow_mail (tenant_id, run_id, key) WHERE key IS NOT NULL;

-- The steps that the code of a run has issued.
CREATE TABLE flow_step (
    tenant_id  integer NOT NULL,
    run_id     uuid NOT NULL,
    no         integer NOT NULL,
    key        text NOT NULL,
    kind       text NOT NULL,
    name       text NOT NULL,
    input_hash bytea NOT NULL,
    target     json,
    job_id     uuid,    -- the child job
    abandon    boolean NOT NULL DEFAULT false, -- the child continues when the run ends
    input      json,    -- conditions of a wait for an event
    due        double precision, -- of a timer: seconds since 1970
    at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, run_id, no)
) PARTITION BY RANGE (run_id);

-- The turns: what each activation of a run consumed, in order, and the number of the first step that it issued.
CREATE TABLE flow_turn (
    tenant_id integer NOT NULL,
    run_id    uuid NOT NULL,
    number    integer NOT NULL,
    epoch     bigint NOT NULL,
    first_no  integer NOT NULL,
    at        double precision NOT NULL, -- seconds since 1970: when the turn began
    taken     integer[] NOT NULL,
    patched   text[],
    warnings  text[],
    PRIMARY KEY (tenant_id, run_id, number)
) PARTITION BY RANGE (run_id);

CREATE TABLE flow_mail_default PARTITION OF flow_mail DEFAULT;
CREATE TABLE flow_step_default PARTITION OF flow_step DEFAULT;
CREATE TABLE flow_turn_default PARTITION OF flow_turn DEFAULT;
SELECT ensure_day((now() AT TIME ZONE 'UTC')::date + ahead) FROM generate_series(-1, 7) ahead;

CREATE TABLE flow_timer (
    tenant_id integer NOT NULL,
    run_id    uuid NOT NULL,
    no        integer NOT NULL,
    run_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, run_id, no)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX flow_timer_due ON flow_timer (run_at, tenant_id, run_id, no);

-- Runs that wait for an event of their tenant. The search begins at the run's first event.
CREATE TABLE flow_wait (
    tenant_id integer NOT NULL,
    run_id    uuid NOT NULL,
    no        integer NOT NULL,
    kind      text NOT NULL,
    match     json,            -- the data of the event must contain this; null: any
    after     bigint NOT NULL, -- the position of the tenant's events at which the search begins
    probe     text NOT NULL,   -- one of the values in match, by which an event finds it; see flow_probe()
    followed  boolean NOT NULL DEFAULT false, -- true: earlier events have been searched, and new ones are matched as they come
    PRIMARY KEY (tenant_id, run_id, no)
) WITH (fillfactor = 50);
CREATE INDEX flow_wait_kind ON flow_wait (tenant_id, kind, probe) WHERE followed;
CREATE INDEX flow_wait_new ON flow_wait (tenant_id) WHERE NOT followed;

-- The position up to which a tenant's events have been delivered to waits that are followed.
CREATE TABLE flow_reader (
    tenant_id integer PRIMARY KEY,
    position  bigint NOT NULL
);

-- The inputs of a map, in blocks; at most a few blocks have jobs at a time. "unfinished" counts the block's jobs that have
-- not ended: the end of an item changes this row, and only the last one of a block changes the map's gate. So the row
-- that all items share is changed once per block.
CREATE TABLE flow_block (
    tenant_id  integer NOT NULL,
    run_id     uuid NOT NULL,    -- of the map
    first      integer NOT NULL, -- the index of its first item
    items      integer NOT NULL,
    unfinished integer,          -- null: not begun
    failed     integer NOT NULL DEFAULT 0,
    inputs     json,             -- null when it has begun
    PRIMARY KEY (tenant_id, run_id, first)
) WITH (fillfactor = 70);

-- Jobs to cancel: children of runs that have ended, or that no longer wait for them. Written by the statement that decides
-- so; a duty cancels them. Cancelling them there would lock leases after gates.
CREATE TABLE flow_doomed (
    tenant_id integer NOT NULL,
    job_id    uuid NOT NULL,
    PRIMARY KEY (tenant_id, job_id)
);

-- The flows that runners have, by name and version. Runners renew seen_at.
CREATE TABLE flow_version (
    name          text NOT NULL,
    version       text NOT NULL,
    description   text NOT NULL,
    input_schema  json NOT NULL,
    output_schema json NOT NULL,
    examples      json NOT NULL,
    priority      integer,
    code          text NOT NULL, -- a hash: held runs are released when it differs from that with which they were held
    published_at  timestamptz NOT NULL,
    seen_at       timestamptz NOT NULL,
    PRIMARY KEY (name, version)
) WITH (fillfactor = 50);

-- A piece of mail before its delivery. For an item of a map, "no" is -1 minus its index.
CREATE TYPE flow_letter AS (
    run_id uuid, kind text, no integer, name text, status text, child_id uuid, value json, category text, message text, key text
);

-- The newest position of a tenant's events.
CREATE FUNCTION flow_position(the_tenant integer) RETURNS bigint LANGUAGE sql STABLE RETURN coalesce(
    (SELECT position FROM event_position WHERE tenant_id = the_tenant ORDER BY position DESC LIMIT 1),
    (SELECT position FROM event_floor WHERE tenant_id = the_tenant), 0);

-- Locks the gates of these runs in the order of their ids. Locks: the gates. Index: primary key of flow_gate.
CREATE FUNCTION flow_lock(the_tenant integer, run_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM (SELECT DISTINCT w.run_id FROM unnest(run_ids) AS w(run_id) WHERE w.run_id IS NOT NULL ORDER BY 1) w
    CROSS JOIN LATERAL (SELECT FROM flow_gate WHERE tenant_id = the_tenant AND run_id = w.run_id FOR UPDATE) g;
END $$;

-- Counts the ends of items of maps in their blocks; returns a letter for the gate of each map of which a block has ended or an
-- item has failed. Locks: rows of flow_block, in the order of their keys. Index: primary key of flow_block.
CREATE FUNCTION flow_count_items(the_tenant integer, letters flow_letter[]) RETURNS flow_letter[] LANGUAGE plpgsql AS $$
DECLARE
    maps uuid[];
    firsts integer[];
    counts integer[];
    failures integer[];
    found flow_letter[];
BEGIN
    SELECT array_agg(e.run_id), array_agg(e.first), array_agg(e.ends), array_agg(e.failures)
    INTO maps, firsts, counts, failures
    FROM (
        SELECT l.run_id, (-1 - l.no) / b.size * b.size AS first, count(*)::int AS ends,
               count(*) FILTER (WHERE l.status <> 'completed')::int AS failures
        FROM (SELECT DISTINCT run_id FROM unnest(letters) WHERE no < 0) m
        CROSS JOIN LATERAL ( -- all blocks of a map have the size of the first, but for the last one
            SELECT items AS size FROM flow_block WHERE tenant_id = the_tenant AND run_id = m.run_id AND first = 0 OFFSET 0
        ) b
        JOIN unnest(letters) AS l ON l.run_id = m.run_id
        WHERE l.no < 0 GROUP BY 1, 2 ORDER BY 1, 2
    ) e;
    PERFORM FROM unnest(maps, firsts) AS e(run_id, first)
    CROSS JOIN LATERAL (SELECT FROM flow_block WHERE tenant_id = the_tenant AND run_id = e.run_id AND first = e.first
                        FOR UPDATE) b;
    -- A separate statement, so that its snapshot includes what was committed while it waited for the locks.
    WITH counted AS (
        UPDATE flow_block b SET unfinished = b.unfinished - e.ends, failed = b.failed + e.failures
        FROM unnest(maps, firsts, counts, failures) AS e(run_id, first, ends, failures)
        WHERE b.tenant_id = the_tenant AND b.run_id = ANY (maps) AND b.run_id = e.run_id AND b.first = e.first
        RETURNING b.run_id, b.first, b.unfinished = 0 AS over, e.failures > 0 AS failed
    )
    SELECT array_agg(ROW(run_id, CASE WHEN failed THEN 'failure' ELSE 'block' END, first, '', NULL, NULL, NULL, NULL, NULL,
                         NULL)::flow_letter)
    INTO found FROM counted WHERE over OR failed;
    RETURN coalesce(found, '{}') || ARRAY(SELECT l::flow_letter FROM unnest(letters) AS l WHERE coalesce(l.no, 0) >= 0);
END $$;

-- The queue in which a woken run is ready, by its model profile; if it is blocked until admit() finds a place of its
-- concurrency key, its lane and that key, after a separator each. Indexes: primary keys.
CREATE FUNCTION flow_queue(the_tenant integer, the_lane integer, the_key text) RETURNS text LANGUAGE sql STABLE RETURN
    CASE WHEN the_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = the_lane)
         THEN concat(chr(31), the_lane, chr(31), the_key)
         ELSE (SELECT model_profile FROM lane WHERE tenant_id = the_tenant AND id = the_lane) END;

-- Delivers mail to runs of one tenant, and wakes those that waited for it: their rows move to "ready". Mail for a run that has
-- ended is dropped, and so is a signal whose key was used before. Returns the runs that got mail and, for each woken one,
-- its queue; see flow_queue().
--
-- Each statement below takes its own snapshot after the gates were locked, so it reads what every earlier writer of these
-- gates has committed.
-- Locks: gates in the order of their ids. Indexes: primary keys of flow_gate and lane; flow_mail_key.
CREATE FUNCTION flow_deliver(the_tenant integer, letters flow_letter[])
RETURNS TABLE (run_id uuid, woken text, id integer) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM unnest(letters) AS l WHERE l.no < 0) THEN
        letters := flow_count_items(the_tenant, letters);
    END IF;
    PERFORM flow_lock(the_tenant, ARRAY(SELECT l.run_id FROM unnest(letters) AS l));
    RETURN QUERY
    WITH fresh AS MATERIALIZED (
        SELECT l.*, g.arrived + row_number() OVER (PARTITION BY l.run_id ORDER BY l.place)::int AS id,
               g.parked_at IS NOT NULL AND g.hold IS NULL AS parked
        FROM unnest(letters) WITH ORDINALITY
             AS l(run_id, kind, no, name, status, child_id, value, category, message, key, place)
        CROSS JOIN LATERAL (
            SELECT arrived, parked_at, hold FROM flow_gate WHERE tenant_id = the_tenant AND run_id = l.run_id OFFSET 0
        ) g
        WHERE l.key IS NULL
           OR NOT EXISTS (SELECT FROM flow_mail WHERE tenant_id = the_tenant AND run_id = l.run_id AND key = l.key OFFSET 0)
    ), kept AS (
        INSERT INTO flow_mail (tenant_id, run_id, id, kind, no, name, status, child_id, value, category, message, key, at)
        SELECT the_tenant, run_id, id, kind, no, name, status, child_id, value, category, message, key, clock()
        FROM fresh WHERE kind NOT IN ('block', 'failure')
    ), come AS MATERIALIZED (
        SELECT run_id, count(*)::int AS letters, count(*) FILTER (WHERE child_id IS NOT NULL)::int AS ends, max(id) AS id,
               bool_or(kind <> 'ended' OR status <> 'completed') AS urgent, bool_or(parked) AS parked,
               max(id) FILTER (WHERE kind = 'cancel') AS cancel_mail
        FROM fresh GROUP BY run_id
    ), opened AS (
        UPDATE flow_gate g
        SET arrived = g.arrived + c.letters, urgent = g.urgent OR c.urgent, children = g.children - c.ends,
            cancel_mail = greatest(g.cancel_mail, c.cancel_mail),
            cancel_requested_at = CASE WHEN c.cancel_mail IS NULL THEN g.cancel_requested_at
                                       ELSE coalesce(g.cancel_requested_at, clock()) END,
            parked_at = CASE WHEN g.hold IS NOT NULL OR (g.arrived + c.letters - g.seen < g.need AND NOT (g.urgent OR c.urgent))
                             THEN g.parked_at END
        FROM come c
        WHERE g.tenant_id = the_tenant AND g.run_id = ANY (ARRAY(SELECT run_id FROM come)) AND g.run_id = c.run_id
        RETURNING g.*, c.parked AND g.parked_at IS NULL AS is_woken, c.id
    ), queued AS (
        INSERT INTO ready (tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, run_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, clock(),
               concurrency_key, parent_id, step_no
        FROM opened o
        WHERE is_woken AND (concurrency_key IS NULL OR NOT EXISTS (SELECT FROM limited_lane WHERE id = o.lane_id OFFSET 0))
        ORDER BY run_id
    ), blocked AS ( -- until admit() finds a place of their concurrency key
        INSERT INTO later (tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, run_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, clock(),
               concurrency_key, parent_id, step_no
        FROM opened o
        WHERE is_woken AND concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = o.lane_id OFFSET 0)
    ), counted AS (
        INSERT INTO stat_delta (tenant_id, series_id, waiting, pending)
        SELECT the_tenant, series_id, -count(*), count(*) FROM opened WHERE is_woken GROUP BY series_id
    )
    SELECT o.run_id, CASE WHEN o.is_woken THEN flow_queue(the_tenant, o.lane_id, o.concurrency_key) END, o.id FROM opened o;
END $$;

-- Delivers a signal to a run, unless its key was used before ("id" is that of the earlier mail) or the run has "most" unread pieces of
-- mail ("is_full"). Both are checked under the lock of the gate, so that they hold for signals that are sent at the same time.
-- Returns nothing if the run has ended; "run_id" only if the signal was delivered.
-- Locks: the gate. Indexes: as flow_deliver().
CREATE FUNCTION flow_signal(the_tenant integer, the_run uuid, the_name text, the_value json, the_key text, most integer)
RETURNS TABLE (run_id uuid, woken text, id integer, is_full boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM flow_lock(the_tenant, ARRAY[the_run]);
    RETURN QUERY SELECT NULL::uuid, NULL::text, m.id, false FROM flow_mail m
    WHERE m.tenant_id = the_tenant AND m.run_id = the_run AND m.key = the_key;
    IF NOT FOUND THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, NULL::integer, true FROM flow_gate g
        WHERE g.tenant_id = the_tenant AND g.run_id = the_run AND g.arrived - g.seen >= most;
    END IF;
    IF NOT FOUND THEN
        RETURN QUERY SELECT d.run_id, d.woken, d.id, false FROM flow_deliver(the_tenant, ARRAY[ROW(
            the_run, 'signal', NULL, the_name, NULL, NULL, the_value, NULL, NULL, the_key)::flow_letter]) d;
    END IF;
END $$;

-- Returns whether the data of an event contain what a wait states. JSON with U+0000 can be stored, but not searched.
CREATE FUNCTION flow_matches(data json, match json) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN match IS NULL OR match::text = '{}' OR (data IS NOT NULL AND data::jsonb @> match::jsonb);
EXCEPTION WHEN untranslatable_character OR data_exception THEN
    RETURN false;
END $$;

-- Returns a digest of each top-level text, number, boolean and null of a JSON object, however it is written: two objects with an equal
-- value have a digest in common. Nothing is returned for what cannot be searched; see flow_matches().
CREATE FUNCTION flow_digests(data json) RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF json_typeof(data) = 'object' THEN
        RETURN QUERY
        SELECT md5(v.key || '=' || CASE json_typeof(v.value)
                   WHEN 'number' THEN trim_scale(v.value::text::numeric)::text
                   WHEN 'string' THEN '"' || (v.value #>> '{}') ELSE v.value::text END)
        FROM json_each(data) AS v WHERE json_typeof(v.value) IN ('string', 'number', 'boolean', 'null');
    END IF;
EXCEPTION WHEN untranslatable_character OR data_exception THEN
    RETURN;
END $$;

-- Returns the digest by which an event of a kind finds a wait; empty if it has none, so that each event of the kind is compared with it.
CREATE FUNCTION flow_probe(kind text, match json) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF kind LIKE 'job.%' THEN -- which are stored for many jobs at a time: by the job only
        RETURN coalesce(md5('job_id=' || (match->>'job_id')), '');
    END IF;
    RETURN coalesce((SELECT digest FROM flow_digests(match) AS digest LIMIT 1), '');
EXCEPTION WHEN untranslatable_character OR data_exception THEN
    RETURN '';
END $$;

-- Returns the probes of the waits that a stored row may end. Large data are not taken apart: all waits of the kind are compared with them.
CREATE FUNCTION flow_probes(the_tenant integer, e event) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF e.kind LIKE 'job.%' THEN
        RETURN '{""}' || ARRAY(SELECT md5('job_id=' || id) FROM unnest(coalesce(e.job_ids, ARRAY[e.job_id])) AS id);
    ELSIF octet_length(e.data::text) > 65536 THEN
        RETURN ARRAY(SELECT DISTINCT probe FROM flow_wait WHERE tenant_id = the_tenant AND kind = e.kind AND followed);
    END IF;
    RETURN '{""}' || ARRAY(SELECT flow_digests(e.data));
END $$;

-- Returns the data of the first event of a stored row that a wait states, as flow code gets them. A row about jobs may be about many: the
-- data name the job. Jobs that retention has removed are left out. Indexes: primary keys of series and job.
CREATE FUNCTION flow_event_data(the_tenant integer, e event, match json) RETURNS SETOF json LANGUAGE plpgsql STABLE AS $$
DECLARE
    wanted text;
BEGIN
    wanted := match->>'job_id'; -- not above, where no exception is caught
    IF e.kind NOT LIKE 'job.%' THEN
        RETURN QUERY SELECT e.data WHERE flow_matches(e.data, match);
    ELSIF wanted IS NULL OR wanted = ANY (coalesce(e.job_ids, ARRAY[e.job_id])::text[]) THEN
        RETURN QUERY
        SELECT d.data
        FROM unnest(coalesce(e.job_ids, ARRAY[e.job_id]), e.series_ids, e.attempts) WITH ORDINALITY AS w(id, series_id, attempt, place)
        JOIN series s ON s.tenant_id = the_tenant AND s.id = w.series_id
             AND s.task_type = coalesce(match->>'task_type', s.task_type)
             AND s.model_profile = coalesce(match->>'model_profile', s.model_profile)
             AND s.owner_service = coalesce(match->>'owner_service', s.owner_service)
        CROSS JOIN LATERAL (SELECT owner_ref, user_id FROM job WHERE tenant_id = the_tenant AND id = w.id OFFSET 0) j
        CROSS JOIN LATERAL (SELECT CASE WHEN json_typeof(e.data) = 'array' THEN e.data->(w.place::int - 1) ELSE e.data END AS more) m
        CROSS JOIN LATERAL (SELECT CASE e.kind
            WHEN 'job.progress' THEN json_build_object('job_id', w.id, 'owner_service', s.owner_service, 'owner_ref', j.owner_ref,
                'user_id', j.user_id, 'task_type', s.task_type, 'model_profile', s.model_profile, 'progress', e.data)
            ELSE json_strip_nulls(json_build_object('job_id', w.id, 'owner_service', s.owner_service, 'owner_ref', j.owner_ref,
                'user_id', j.user_id, 'task_type', s.task_type, 'model_profile', s.model_profile, 'attempt', w.attempt,
                'category', m.more->>'category', 'message', m.more->>'message')) END AS data) d
        WHERE (wanted IS NULL OR wanted = w.id::text) AND flow_matches(d.data, match)
        ORDER BY w.place LIMIT 1;
    END IF;
EXCEPTION WHEN untranslatable_character OR data_exception THEN
    RETURN;
END $$;

-- Delivers a tenant's events to the runs that wait for them, in the order of their positions: first the earlier events to new waits,
-- then at most a given number of new events to all. Rows of kinds that no run waits for are passed over. "more": events are left.
-- Locks: the row of flow_reader, so one pass of a tenant at a time; rows of flow_wait; then gates. Indexes: primary key of
-- event_position, event_order, flow_wait_kind, flow_wait_new.
CREATE FUNCTION flow_match_events(the_tenant integer, at_most integer)
RETURNS TABLE (run_id uuid, woken text, more boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    newest bigint := flow_position(the_tenant);
    reached bigint;
    upto bigint;
    letters flow_letter[];
BEGIN
    INSERT INTO flow_reader AS r (tenant_id, position) VALUES (the_tenant, newest) ON CONFLICT DO NOTHING;
    SELECT position INTO reached FROM flow_reader WHERE tenant_id = the_tenant FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM flow_wait WHERE tenant_id = the_tenant AND followed) THEN
        reached := newest; -- no wait was followed so far
    END IF;
    upto := least(newest, reached + at_most);
    WITH new AS MATERIALIZED (
        SELECT ctid AS row_tid, * FROM flow_wait WHERE tenant_id = the_tenant AND NOT followed LIMIT at_most FOR UPDATE SKIP LOCKED
    ), old AS MATERIALIZED (
        SELECT p.position, e.kind, e.stored, flow_probes(the_tenant, e.stored) AS probes FROM event_position p
        CROSS JOIN LATERAL (SELECT kind, event AS stored FROM event WHERE id = p.event_id AND at = p.at OFFSET 0) e
        WHERE p.tenant_id = the_tenant AND p.position > reached AND p.position <= upto
          AND EXISTS (SELECT FROM flow_wait WHERE tenant_id = the_tenant AND kind = e.kind AND followed OFFSET 0)
    ), following AS MATERIALIZED (
        SELECT w.row_tid, w.run_id, w.no, o.position, d.data FROM old o
        CROSS JOIN LATERAL unnest(o.probes) AS b(probe)
        CROSS JOIN LATERAL (
            SELECT ctid AS row_tid, run_id, no, match FROM flow_wait
            WHERE tenant_id = the_tenant AND kind = o.kind AND probe = b.probe AND followed FOR UPDATE SKIP LOCKED
        ) w
        CROSS JOIN LATERAL flow_event_data(the_tenant, o.stored, w.match) AS d(data)
    ), found AS MATERIALIZED (
        SELECT n.row_tid, n.run_id, n.no, f.position, f.data FROM new n
        CROSS JOIN LATERAL (
            SELECT p.position, d.data FROM event_position p
            CROSS JOIN LATERAL (SELECT event AS stored FROM event WHERE id = p.event_id AND at = p.at AND kind = n.kind OFFSET 0) e
            CROSS JOIN LATERAL flow_event_data(the_tenant, e.stored, n.match) AS d(data)
            WHERE p.tenant_id = the_tenant AND p.position > n.after AND p.position <= upto
            ORDER BY p.position LIMIT 1
        ) f
        UNION ALL
        SELECT * FROM (SELECT DISTINCT ON (row_tid) row_tid, run_id, no, position, data FROM following
                       ORDER BY row_tid, position) first
    ), gone AS (
        DELETE FROM flow_wait WHERE ctid = ANY (ARRAY(SELECT row_tid FROM found))
    ), marked AS (
        UPDATE flow_wait SET followed = true
        WHERE ctid = ANY (ARRAY(SELECT row_tid FROM new EXCEPT SELECT row_tid FROM found))
    )
    SELECT array_agg(ROW(run_id, 'ended', no, '', 'completed', NULL, data, NULL, NULL, NULL)::flow_letter ORDER BY position)
    INTO letters FROM found;
    UPDATE flow_reader SET position = upto WHERE tenant_id = the_tenant AND position < upto;
    IF letters IS NOT NULL THEN
        RETURN QUERY SELECT d.run_id, d.woken, upto < newest FROM flow_deliver(the_tenant, letters) d;
    ELSIF upto < newest THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, true;
    END IF;
END $$;

-- Removes what belongs to runs that end: gates, timers, waits, blocks. Marks their unfinished children for cancellation, except
-- those that continue. The caller holds the locks of the gates. Indexes: primary keys, job_parent.
CREATE FUNCTION flow_close(the_tenant integer, run_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parents uuid[];
    maps uuid[];
BEGIN
    WITH gone AS (
        DELETE FROM flow_gate g WHERE tenant_id = the_tenant AND run_id = ANY (run_ids)
        RETURNING run_id, is_map, children > 0 OR (is_map AND EXISTS (
            SELECT FROM flow_block WHERE tenant_id = the_tenant AND run_id = g.run_id AND unfinished > 0 OFFSET 0)) AS is_parent
    )
    SELECT array_agg(run_id) FILTER (WHERE is_parent), array_agg(run_id) FILTER (WHERE is_map) INTO parents, maps FROM gone;
    DELETE FROM flow_wait WHERE ctid = ANY (ARRAY( -- as for timers
        SELECT ctid FROM flow_wait WHERE tenant_id = the_tenant AND run_id = ANY (run_ids) FOR UPDATE SKIP LOCKED));
    DELETE FROM flow_timer WHERE ctid = ANY (ARRAY( -- a timer that is firing finds no gate
        SELECT ctid FROM flow_timer WHERE tenant_id = the_tenant AND run_id = ANY (run_ids) FOR UPDATE SKIP LOCKED));
    IF maps IS NOT NULL THEN
        DELETE FROM flow_block WHERE tenant_id = the_tenant AND run_id = ANY (maps);
    END IF;
    IF parents IS NOT NULL THEN
        INSERT INTO flow_doomed (tenant_id, job_id)
        SELECT the_tenant, j.id
        FROM unnest(parents) AS p(run_id)
        CROSS JOIN LATERAL (SELECT id, step_no FROM job WHERE tenant_id = the_tenant AND parent_id = p.run_id OFFSET 0) j
        WHERE NOT EXISTS (SELECT FROM done WHERE tenant_id = the_tenant AND job_id = j.id OFFSET 0)
          AND NOT EXISTS (SELECT FROM flow_step WHERE tenant_id = the_tenant AND run_id = p.run_id AND no = j.step_no AND abandon
                          OFFSET 0)
        ORDER BY j.id
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Handles jobs of one tenant that ended without a result: closes those that are runs, and delivers mail to their parents.
-- Returns what flow_deliver() returns. Locks: gates in the order of their ids.
CREATE FUNCTION flow_ended(the_tenant integer, job_ids uuid[], letters flow_letter[])
RETURNS TABLE (run_id uuid, woken text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    runs uuid[] := ARRAY(SELECT w.job_id FROM unnest(job_ids) AS w(job_id) CROSS JOIN LATERAL (
        SELECT FROM flow_gate WHERE tenant_id = the_tenant AND run_id = w.job_id OFFSET 0) g);
BEGIN
    IF runs <> '{}' THEN
        -- Items of maps lock blocks before gates. They never wait for the gates that are removed here, because those jobs have ended.
        PERFORM flow_lock(the_tenant, runs || ARRAY(SELECT l.run_id FROM unnest(letters) AS l WHERE coalesce(l.no, 0) >= 0));
        PERFORM flow_close(the_tenant, runs);
    END IF;
    IF letters IS NOT NULL THEN
        RETURN QUERY SELECT d.run_id, d.woken FROM flow_deliver(the_tenant, letters) d;
    END IF;
END $$;

-- Requests that runs stop: each gets a cancellation as mail, unless it has an unread one. With a category and messages, the runs fail
-- with these, and are not cancelled. Returns those that have not ended, as flow_deliver() does. Locks: gates in the order of their ids.
CREATE FUNCTION flow_cancel(the_tenant integer, run_ids uuid[], category text DEFAULT NULL, messages text[] DEFAULT NULL)
RETURNS TABLE (run_id uuid, woken text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    letters flow_letter[];
BEGIN
    PERFORM flow_lock(the_tenant, run_ids);
    SELECT array_agg(ROW(g.run_id, 'cancel', NULL, '', NULL, NULL, NULL, category, w.message, NULL)::flow_letter) INTO letters
    FROM unnest(run_ids, messages) AS w(run_id, message)
    CROSS JOIN LATERAL (
        SELECT run_id FROM flow_gate
        WHERE tenant_id = the_tenant AND run_id = w.run_id AND (cancel_mail = 0 OR cancel_mail <= seen) OFFSET 0
    ) g;
    RETURN QUERY
    WITH delivered AS MATERIALIZED (SELECT d.run_id, d.woken FROM flow_deliver(the_tenant, letters) d WHERE letters IS NOT NULL)
    SELECT g.run_id, t.woken
    FROM unnest(run_ids) AS w(run_id)
    CROSS JOIN LATERAL (SELECT run_id FROM flow_gate WHERE tenant_id = the_tenant AND run_id = w.run_id OFFSET 0) g
    LEFT JOIN delivered t ON t.run_id = g.run_id;
END $$;

-- Parks runs whose lease the caller holds, with the gates locked: their leases end, and their jobs wait.
CREATE FUNCTION flow_unlease(the_tenant integer, run_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH ended AS (
        DELETE FROM lease WHERE tenant_id = the_tenant AND job_id = ANY (run_ids) RETURNING job_id, series_id, attempt
    ), kept AS (
        UPDATE flow_gate g SET attempt = e.attempt - 1 -- the next claim does not count as another attempt
        FROM ended e
        WHERE g.tenant_id = the_tenant AND g.run_id = ANY (run_ids) AND g.run_id = e.job_id AND g.attempt <> e.attempt - 1
    )
    INSERT INTO stat_delta (tenant_id, series_id, running, waiting)
    SELECT the_tenant, series_id, -count(*), count(*) FROM ended GROUP BY series_id;
END $$;

-- Parks resident runs for which no mail has come that they need. Returns those that are parked now; the others continue.
-- Locks: lease rows in job id order, then gates in the order of their ids.
CREATE FUNCTION flow_park(the_tenant integer, run_ids uuid[], epochs bigint[]) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    leased uuid[];
    parked uuid[];
BEGIN
    leased := ARRAY(
        SELECT l.job_id FROM (SELECT * FROM unnest(run_ids, epochs) AS w(run_id, epoch) ORDER BY w.run_id) w
        CROSS JOIN LATERAL (SELECT job_id FROM lease WHERE tenant_id = the_tenant AND job_id = w.run_id AND epoch = w.epoch
                            FOR UPDATE) l);
    PERFORM flow_lock(the_tenant, leased);
    WITH p AS (
        UPDATE flow_gate SET parked_at = clock()
        WHERE tenant_id = the_tenant AND run_id = ANY (leased) AND arrived - seen < need AND NOT urgent AND turns > 0
        RETURNING run_id
    )
    SELECT array_agg(run_id) INTO parked FROM p;
    PERFORM flow_unlease(the_tenant, coalesce(parked, '{}'));
    RETURN QUERY SELECT unnest(parked);
END $$;

-- Begins blocks of a map: submits a job for each of their items. Returns the blocks that have begun; none if the lease was lost.
-- Locks: the lease, the gate, and rows of flow_block, all of which are the map's own.
CREATE FUNCTION flow_pump(
    the_tenant integer, map_id uuid, the_epoch bigint, firsts integer[], items integer[], ids uuid[], the_series integer,
    the_lane integer, inputs json[], sizes integer[], attempts smallint, timeout float8, key text, are_runs boolean
) RETURNS SETOF integer LANGUAGE plpgsql AS $$
DECLARE
    begun integer[];
    the_submitter integer;
    now_at timestamptz := clock();
BEGIN
    SELECT submitter_id INTO the_submitter FROM lease
    WHERE tenant_id = the_tenant AND job_id = map_id AND epoch = the_epoch FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM flow_lock(the_tenant, ARRAY[map_id]);
    UPDATE flow_gate SET seen = arrived, urgent = false, turns = turns + 1, deaths = 0, started_at = coalesce(started_at, now_at)
    WHERE tenant_id = the_tenant AND run_id = map_id;
    WITH started AS (
        UPDATE flow_block b SET unfinished = b.items, inputs = NULL
        WHERE b.tenant_id = the_tenant AND b.run_id = map_id AND b.first = ANY (firsts) AND b.unfinished IS NULL
        RETURNING b.first
    )
    SELECT array_agg(first ORDER BY first) INTO begun FROM started;
    IF begun IS DISTINCT FROM firsts THEN
        RAISE EXCEPTION 'blocks of the map have begun before' USING ERRCODE = 'serialization_failure';
    END IF;
    WITH parent AS MATERIALIZED (
        SELECT owner_ref, user_id FROM job WHERE tenant_id = the_tenant AND id = map_id
    ), child AS MATERIALIZED (
        SELECT c.*, p.owner_ref, p.user_id
        FROM unnest(ids, items, inputs, sizes) AS c(id, item, input, size) CROSS JOIN parent p
    ), kept AS (
        INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts,
                         timeout_seconds, created_at, concurrency_key, parent_id, step_no)
        SELECT the_tenant, id, the_series, the_lane, the_submitter, owner_ref, user_id, input, attempts, timeout, now_at, key,
               map_id, -1 - item
        FROM child
    ), gates AS (
        INSERT INTO flow_gate (tenant_id, run_id, lane_id, series_id, submitter_id, input_bytes, max_attempts, first_position,
                               enqueued_at, concurrency_key, parent_id, step_no)
        SELECT the_tenant, id, the_lane, the_series, the_submitter, size, attempts, (SELECT flow_position(the_tenant)), now_at,
               key, map_id, -1 - item
        FROM child WHERE are_runs
    ), limited AS MATERIALIZED (
        SELECT key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = the_lane OFFSET 0) AS is_limited
    ), queued AS (
        INSERT INTO ready (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, id, the_lane, the_series, attempts, the_submitter, size, now_at, key, map_id, -1 - item
        FROM child CROSS JOIN limited l WHERE NOT l.is_limited ORDER BY item
    ), blocked AS (
        INSERT INTO later (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, id, the_lane, the_series, attempts, the_submitter, size, now_at, key, map_id, -1 - item
        FROM child CROSS JOIN limited l WHERE l.is_limited
    ), counted AS (
        INSERT INTO stat_delta (tenant_id, series_id, pending)
        SELECT the_tenant, the_series, count(*) FROM child HAVING count(*) > 0
    )
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids)
    SELECT the_tenant, now_at, 'job.created', array_agg(id), array_agg(the_series) FROM child HAVING count(*) > 0;
    RETURN QUERY SELECT unnest(begun);
END $$;

-- Holds runs whose code cannot continue, and ends their leases. Returns those that are held now. Locks: as flow_park().
CREATE FUNCTION flow_hold(the_tenant integer, run_ids uuid[], epochs bigint[], reasons text[], details json[],
                          code text)
RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    leased uuid[];
BEGIN
    leased := ARRAY(
        SELECT l.job_id FROM (SELECT * FROM unnest(run_ids, epochs) AS w(run_id, epoch) ORDER BY w.run_id) w
        CROSS JOIN LATERAL (SELECT job_id FROM lease WHERE tenant_id = the_tenant AND job_id = w.run_id AND epoch = w.epoch
                            FOR UPDATE) l);
    PERFORM flow_lock(the_tenant, leased);
    UPDATE flow_gate g SET parked_at = clock(), hold = w.reason, held = w.detail, held_code = code, deaths = 0
    FROM unnest(run_ids, reasons, details) AS w(run_id, reason, detail)
    WHERE g.tenant_id = the_tenant AND g.run_id = ANY (leased) AND g.run_id = w.run_id;
    PERFORM flow_unlease(the_tenant, leased);
    RETURN QUERY SELECT unnest(leased);
END $$;

-- Releases held runs: each is ready again. Returns them with the model profile of their queue. Locks: gates in the order of their ids.
CREATE FUNCTION flow_release(the_tenant integer, run_ids uuid[]) RETURNS TABLE (run_id uuid, woken text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM flow_lock(the_tenant, run_ids);
    RETURN QUERY
    WITH opened AS (
        UPDATE flow_gate SET hold = NULL, held = NULL, held_code = NULL, parked_at = NULL, deaths = 0
        WHERE tenant_id = the_tenant AND run_id = ANY (run_ids) AND hold IS NOT NULL RETURNING *
    ), queued AS (
        INSERT INTO ready (tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, run_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, clock(),
               concurrency_key, parent_id, step_no
        FROM opened o
        WHERE (concurrency_key IS NULL OR NOT EXISTS (SELECT FROM limited_lane WHERE id = o.lane_id OFFSET 0))
        ORDER BY run_id
    ), blocked AS ( -- until admit() finds a place of their concurrency key
        INSERT INTO later (tenant_id, job_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, run_id, lane_id, series_id, attempt, max_attempts, submitter_id, input_bytes, clock(),
               concurrency_key, parent_id, step_no
        FROM opened o
        WHERE concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = o.lane_id OFFSET 0)
    ), counted AS (
        INSERT INTO stat_delta (tenant_id, series_id, waiting, pending)
        SELECT the_tenant, series_id, -count(*), count(*) FROM opened GROUP BY series_id
    )
    SELECT o.run_id, flow_queue(the_tenant, o.lane_id, o.concurrency_key) FROM opened o;
END $$;

-- Stores turns of runs of one tenant: what they consumed, steps, child jobs, the outcomes of recorded values, timers, and waits; marks
-- the jobs that a run no longer waits for; and parks the runs that have no mail to consume, if "parks".
-- A run with "ends" is closed; the caller's transaction ends its lease.
--
-- Each place of the first arrays is a run, with the number of its first turn and how many there are: all of them are stored or none.
-- The second turn of a run has consumed what the first has recorded. It is right only if no other mail has come before that:
-- "befores" is the id of the newest mail that the run knew.
--
-- The tn_, st_, jb_, rc_, dr_ and bl_ arrays are turns, steps, child jobs, recorded values, dropped steps and blocks of maps; …_run is the
-- place of their run, from 1. Returns, for each run, whether its turns are "committed", were committed before by the same lease
-- ("repeated"), have been "overtaken" by other mail, or are "stale": another lease holds, or has taken their place in the history.
-- "arrived" is the newest mail; recorded values are the newest pieces of it, in order.
--
-- A cancellation that came while the turn was computed is mail that the run reads next: the code then ends the children.
-- Only the end of a run (a forced one, too) removes the gate, which this locks: no child can appear after it.
-- Locks: lease rows in job id order, then gates (also of parents of runs that end) in the order of their ids.
-- Indexes: primary keys.
CREATE FUNCTION flow_commit(
    the_tenant integer, run_ids uuid[], epochs bigint[], numbers integer[], counts integer[], befores integer[], ats float8[],
    seens integer[], needs integer[], parks boolean[], ends boolean[], progresses json[], recordeds integer[],
    recorded_ats float8[], childrens integer[],
    tn_run integer[], tn_number integer[], tn_at float8[], tn_first_no integer[], tn_taken text[], tn_patched text[],
    tn_warnings text[],
    st_run integer[], st_no integer[], st_key text[], st_kind text[], st_name text[], st_hash bytea[], st_target json[],
    st_job uuid[], st_abandon boolean[], st_input json[], st_due float8[],
    jb_run integer[], jb_no integer[], jb_id uuid[], jb_series integer[], jb_lane integer[], jb_input json[], jb_bytes integer[],
    jb_attempts smallint[], jb_timeout float8[], jb_key text[], jb_gate text[],
    rc_run integer[], rc_order integer[], rc_no integer[], rc_value json[], rc_category text[], rc_message text[],
    dr_run integer[], dr_no integer[],
    bl_job uuid[], bl_first integer[], bl_items integer[], bl_inputs json[]
) RETURNS TABLE (place integer, outcome text, arrived integer, parked boolean, at float8) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- By place. A row that this transaction has locked stays where it is, so it is found again by its ctid.
    leases tid[]; -- null where the epoch no longer holds
    claimed_ats timestamptz[]; -- when the lease was taken
    gates tid[]; -- null where the turn is not stored: it has no lease, or does not come next in the history of its run
    mails integer[]; -- the id of the newest mail before the turn; null likewise
    overtakens boolean[]; -- true where other mail has come before the values that the next turn has consumed
    repeats boolean[]; -- whether the same lease has stored the turn before
    parkeds boolean[] := '{}'; -- true where the run is parked now
    --
    parents uuid[]; -- of runs that end
    is_late boolean; -- whether a run that ends was claimed again, or has progress
    parked_places integer[];
    one integer;
    now_at timestamptz := clock();
BEGIN
    SELECT array_agg(l.row_tid ORDER BY w.place), array_agg(l.started_at ORDER BY w.place),
           array_agg(l.parent_id) FILTER (WHERE w.ends AND l.step_no >= 0)
    INTO leases, claimed_ats, parents
    FROM (SELECT * FROM unnest(run_ids, epochs, ends) WITH ORDINALITY AS w(run_id, epoch, ends, place) ORDER BY w.run_id) w
    LEFT JOIN LATERAL (
        SELECT ctid AS row_tid, started_at, parent_id, step_no FROM lease
        WHERE tenant_id = the_tenant AND job_id = w.run_id AND epoch = w.epoch FOR UPDATE
    ) l ON true;
    IF parents IS NOT NULL THEN
        PERFORM flow_lock(the_tenant, parents || ARRAY(
            SELECT w.run_id FROM unnest(run_ids, leases) AS w(run_id, lease) WHERE w.lease IS NOT NULL));
    END IF;
    SELECT array_agg(CASE WHEN w.before IS NULL OR w.before = g.arrived THEN g.row_tid END ORDER BY w.place),
           array_agg(g.arrived ORDER BY w.place), array_agg(w.before <> g.arrived ORDER BY w.place),
           bool_or(w.ends AND (w.progress IS NOT NULL OR g.progress IS NOT NULL OR g.started_at < w.claimed_at))
    INTO gates, mails, overtakens, is_late
    FROM (
        SELECT * FROM unnest(run_ids, numbers, befores, ends, progresses, leases, claimed_ats) WITH ORDINALITY
                      AS w(run_id, number, before, ends, progress, lease, claimed_at, place) ORDER BY w.run_id
    ) w
    LEFT JOIN LATERAL (
        SELECT * FROM (
            SELECT ctid AS row_tid, turns, arrived, hold, started_at, progress FROM flow_gate
            WHERE tenant_id = the_tenant AND run_id = w.run_id AND w.lease IS NOT NULL OFFSET 0 FOR UPDATE
        ) l
        WHERE l.turns = w.number AND l.hold IS NULL
    ) g ON true;

    INSERT INTO flow_turn (tenant_id, run_id, number, epoch, first_no, at, taken, patched, warnings)
    SELECT the_tenant, run_ids[t.run], t.number, epochs[t.run], t.first_no, t.at, string_to_array(t.taken, ',')::integer[],
           string_to_array(t.patched, chr(31)), string_to_array(t.warnings, chr(31))
    FROM unnest(tn_run, tn_number, tn_first_no, tn_at, tn_taken, tn_patched, tn_warnings)
         AS t(run, number, first_no, at, taken, patched, warnings)
    WHERE gates[t.run] IS NOT NULL;

    IF st_no <> '{}' THEN
        INSERT INTO flow_step (tenant_id, run_id, no, key, kind, name, input_hash, target, job_id, abandon, input, due, at)
        SELECT the_tenant, run_ids[s.run], s.no, s.key, s.kind, s.name, s.hash, s.target, s.job, s.abandon, s.input, s.due, now_at
        FROM unnest(st_run, st_no, st_key, st_kind, st_name, st_hash, st_target, st_job, st_abandon, st_input, st_due)
             AS s(run, no, key, kind, name, hash, target, job, abandon, input, due)
        WHERE gates[s.run] IS NOT NULL;
    END IF;
    IF 'timer' = ANY (st_kind) THEN
        INSERT INTO flow_timer (tenant_id, run_id, no, run_at)
        SELECT the_tenant, run_ids[s.run], s.no, to_timestamp(s.due)
        FROM unnest(st_run, st_no, st_due) AS s(run, no, due)
        WHERE s.due IS NOT NULL AND gates[s.run] IS NOT NULL AND NOT ends[s.run];
    END IF;
    IF 'event' = ANY (st_kind) THEN
        INSERT INTO flow_wait (tenant_id, run_id, no, kind, match, probe, after)
        SELECT the_tenant, run_ids[s.run], s.no, s.name, s.input, flow_probe(s.name, s.input), g.first_position
        FROM unnest(st_run, st_no, st_kind, st_name, st_input) AS s(run, no, kind, name, input)
        CROSS JOIN LATERAL (SELECT first_position FROM flow_gate WHERE ctid = gates[s.run] OFFSET 0) g
        WHERE s.kind = 'event' AND NOT ends[s.run];
    END IF;
    IF 'publish' = ANY (st_kind) THEN
        INSERT INTO event (tenant_id, at, kind, subject, weight, data, run_ids)
        SELECT the_tenant, now_at, s.name, 'flow/' || run_ids[s.run], octet_length(s.input::text), s.input, ARRAY[run_ids[s.run]]
        FROM unnest(st_run, st_kind, st_name, st_input) AS s(run, kind, name, input)
        WHERE s.kind = 'publish' AND gates[s.run] IS NOT NULL;
    END IF;
    IF 'progress' = ANY (st_kind) THEN
        INSERT INTO event (tenant_id, at, kind, job_id, series_ids, epochs, attempts, weight, data)
        SELECT the_tenant, now_at, 'job.progress', t.run_id, ARRAY[l.series_id], ARRAY[t.epoch], ARRAY[l.attempt],
               octet_length(t.progress::text), t.progress
        FROM unnest(run_ids, epochs, progresses, gates, leases) AS t(run_id, epoch, progress, gate, lease)
        CROSS JOIN LATERAL (SELECT series_id, attempt FROM lease WHERE ctid = t.lease OFFSET 0) l
        WHERE t.gate IS NOT NULL AND t.progress IS NOT NULL;
    END IF;

    IF jb_no <> '{}' THEN
        WITH child AS MATERIALIZED (
            SELECT run_ids[c.run] AS run_id, l.submitter_id, p.owner_ref, p.user_id, c.*
            FROM unnest(jb_run, jb_no, jb_id, jb_series, jb_lane, jb_input, jb_bytes, jb_attempts, jb_timeout, jb_key,
                        jb_gate)
                 AS c(run, no, id, series_id, lane_id, input, input_bytes, max_attempts, timeout_seconds, concurrency_key,
                      gate)
            CROSS JOIN LATERAL (SELECT submitter_id FROM lease WHERE ctid = leases[c.run] OFFSET 0) l
            CROSS JOIN LATERAL (SELECT owner_ref, user_id FROM job WHERE tenant_id = the_tenant AND id = run_ids[c.run] OFFSET 0) p
            WHERE gates[c.run] IS NOT NULL
        ), kept AS (
            INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts,
                             timeout_seconds, created_at, concurrency_key, parent_id, step_no)
            SELECT the_tenant, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts, timeout_seconds,
                   now_at, concurrency_key, run_id, no
            FROM child
        ), gates AS (
            INSERT INTO flow_gate (tenant_id, run_id, lane_id, series_id, submitter_id, input_bytes, max_attempts, first_position,
                                   enqueued_at, concurrency_key, parent_id, step_no, is_map)
            SELECT the_tenant, id, lane_id, series_id, submitter_id, input_bytes, max_attempts,
                   (SELECT flow_position(the_tenant)), now_at, concurrency_key, run_id, no,
                   gate = 'map'
            FROM child WHERE gate <> ''
        ), queued AS (
            INSERT INTO ready (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                               concurrency_key, parent_id, step_no)
            SELECT the_tenant, id, lane_id, series_id, max_attempts, submitter_id, input_bytes, now_at, concurrency_key, run_id,
                   no
            FROM child c WHERE concurrency_key IS NULL OR NOT EXISTS (SELECT FROM limited_lane WHERE id = c.lane_id OFFSET 0)
        ), blocked AS ( -- until admit() finds a place of their concurrency key
            INSERT INTO later (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                               concurrency_key, parent_id, step_no)
            SELECT the_tenant, id, lane_id, series_id, max_attempts, submitter_id, input_bytes, now_at, concurrency_key, run_id,
                   no
            FROM child c WHERE concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = c.lane_id OFFSET 0)
        ), counted AS (
            INSERT INTO stat_delta (tenant_id, series_id, pending)
            SELECT the_tenant, series_id, count(*) FROM child GROUP BY series_id
        )
        INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, run_ids)
        SELECT the_tenant, now_at, 'job.created', array_agg(id), array_agg(series_id), array_agg(run_id)
        FROM child HAVING count(*) > 0;
        INSERT INTO flow_block (tenant_id, run_id, first, items, inputs)
        SELECT the_tenant, b.job, b.first, b.items, b.inputs
        FROM unnest(bl_job, bl_first, bl_items, bl_inputs) AS b(job, first, items, inputs)
        CROSS JOIN LATERAL (SELECT FROM flow_gate WHERE tenant_id = the_tenant AND run_id = b.job OFFSET 0) g;
    END IF;

    IF rc_no <> '{}' THEN
        INSERT INTO flow_mail (tenant_id, run_id, id, kind, no, name, status, value, category, message, at)
        SELECT the_tenant, run_ids[r.run], mails[r.run] + r.place, 'ended', r.no, '',
               CASE WHEN r.category IS NULL THEN 'completed' ELSE 'failed' END, r.value, r.category, r.message,
               coalesce(to_timestamp(recorded_ats[r.run]), now_at)
        FROM unnest(rc_run, rc_order, rc_no, rc_value, rc_category, rc_message) AS r(run, place, no, value, category, message)
        WHERE gates[r.run] IS NOT NULL;
    END IF;

    IF dr_no <> '{}' THEN
        INSERT INTO flow_doomed (tenant_id, job_id)
        SELECT the_tenant, s.job_id
        FROM unnest(dr_run, dr_no) AS d(run, no)
        CROSS JOIN LATERAL (SELECT job_id FROM flow_step WHERE tenant_id = the_tenant AND run_id = run_ids[d.run] AND no = d.no
                            OFFSET 0) s
        WHERE gates[d.run] IS NOT NULL AND s.job_id IS NOT NULL ORDER BY s.job_id
        ON CONFLICT DO NOTHING;
        DELETE FROM flow_timer WHERE ctid = ANY (ARRAY( -- a timer that is firing becomes mail that the code ignores
            SELECT t.row_tid FROM unnest(dr_run, dr_no) AS d(run, no)
            CROSS JOIN LATERAL (SELECT ctid AS row_tid FROM flow_timer WHERE tenant_id = the_tenant AND run_id = run_ids[d.run]
                                AND no = d.no FOR UPDATE SKIP LOCKED) t
            WHERE gates[d.run] IS NOT NULL));
        DELETE FROM flow_wait WHERE ctid = ANY (ARRAY(
            SELECT t.row_tid FROM unnest(dr_run, dr_no) AS d(run, no)
            CROSS JOIN LATERAL (SELECT ctid AS row_tid FROM flow_wait WHERE tenant_id = the_tenant AND run_id = run_ids[d.run]
                                AND no = d.no FOR UPDATE SKIP LOCKED) t
            WHERE gates[d.run] IS NOT NULL));
    END IF;

    IF is_late THEN
        UPDATE lease l SET started_at = least(l.started_at, t.started_at), progress = coalesce(t.progress, l.progress)
        FROM (
            SELECT w.lease, g.started_at, coalesce(w.progress, g.progress) AS progress
            FROM unnest(leases, gates, progresses, ends) AS w(lease, gate, progress, ends)
            CROSS JOIN LATERAL (SELECT started_at, progress FROM flow_gate WHERE ctid = w.gate OFFSET 0) g
            WHERE w.ends
        ) t
        WHERE l.ctid = t.lease;
    END IF;
    WITH moved AS (
        UPDATE flow_gate g
        SET turns = g.turns + t.count, arrived = g.arrived + t.recorded, children = g.children + t.children,
            seen = t.seen, need = t.need, deaths = 0, urgent = g.urgent AND g.arrived > t.seen,
            progress = coalesce(t.progress, g.progress), started_at = coalesce(g.started_at, to_timestamp(t.at)),
            parked_at = CASE WHEN t.park AND NOT t.ends AND g.arrived + t.recorded - t.seen < t.need
                              AND NOT (g.urgent AND g.arrived > t.seen) THEN now_at END
        FROM unnest(gates, counts, recordeds, childrens, seens, needs, progresses, ats, parks, ends) WITH ORDINALITY
             AS t(row_tid, count, recorded, children, seen, need, progress, at, park, ends, place)
        WHERE g.ctid = t.row_tid AND (NOT t.ends OR t.children > 0) -- flow_close() removes the others
        RETURNING t.place::integer, g.parked_at
    )
    SELECT array_agg(m.place) INTO parked_places FROM moved m WHERE m.parked_at IS NOT NULL;
    IF parked_places IS NOT NULL THEN
        FOREACH one IN ARRAY parked_places LOOP
            parkeds[one] := true;
        END LOOP;
        PERFORM flow_unlease(the_tenant, ARRAY(SELECT run_ids[p] FROM unnest(parked_places) AS p));
    END IF;
    IF true = ANY (ends) THEN
        PERFORM flow_close(the_tenant, ARRAY(
            SELECT w.run_id FROM unnest(run_ids, gates, ends) AS w(run_id, gate, ends) WHERE w.ends AND w.gate IS NOT NULL));
    END IF;

    IF array_position(gates, NULL) IS NOT NULL THEN
        repeats := ARRAY(
            SELECT EXISTS (SELECT FROM flow_turn WHERE tenant_id = the_tenant AND run_id = w.run_id AND number = w.number
                           AND epoch = w.epoch OFFSET 0)
            FROM unnest(run_ids, numbers, epochs) WITH ORDINALITY AS w(run_id, number, epoch, place) ORDER BY w.place);
    END IF;
    RETURN QUERY
    SELECT w.place::integer, CASE WHEN w.gate IS NOT NULL THEN 'committed' WHEN repeats[w.place] THEN 'repeated'
                          WHEN overtakens[w.place] THEN 'overtaken' ELSE 'stale' END,
           CASE WHEN w.gate IS NOT NULL THEN w.mail + w.recorded ELSE 0 END, coalesce(parkeds[w.place], false), extract(epoch FROM now_at)::float8
    FROM unnest(gates, mails, recordeds) WITH ORDINALITY AS w(gate, mail, recorded, place);
END $$;

-- Returns a new time-ordered id, for rows that the database creates by itself.
CREATE FUNCTION flow_new_id() RETURNS uuid LANGUAGE sql VOLATILE RETURN (
    lpad(to_hex(floor(extract(epoch FROM clock()) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 3) || '8'
    || substr(md5(random()::text || clock_timestamp()::text), 1, 15))::uuid;

-- Gives a run the history of another before a turn: the turns before it, their steps, the mail that these have
-- consumed and, as unread mail, the results of these steps that came later, and signals. Steps whose jobs have not given a
-- result get new jobs, except those that the source had dropped before it ended. With source = target, the rest of the run's
-- history is removed. The caller's transaction has made the gate of the target, and its job is in no other table of states
-- yet; it is ready afterwards. Jobs that have completed do not run again.
-- Locks: none that another transaction could hold. Indexes: primary keys.
CREATE FUNCTION flow_fork(the_tenant integer, source uuid, target uuid, cut integer, source_ended_at timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    last_seen integer := coalesce((
        SELECT max(m) FROM (SELECT unnest(taken) AS m FROM flow_turn
                            WHERE tenant_id = the_tenant AND run_id = source AND number < cut) t), 0);
    end_no integer := (SELECT first_no FROM flow_turn WHERE tenant_id = the_tenant AND run_id = source AND number = cut);
    began_at float8 := (SELECT at FROM flow_turn WHERE tenant_id = the_tenant AND run_id = source AND number = 0);
    one record;
    new_id uuid;
    child_count integer := 0;
    mail_count integer;
BEGIN
    CREATE TEMPORARY TABLE kept_mail ON COMMIT DROP AS
    SELECT m.id, m.kind, m.no, m.name, m.status, m.child_id, coalesce(m.value, d.result) AS value, m.category, m.message, m.key, m.at
    FROM flow_mail m
    LEFT JOIN LATERAL (
        SELECT result FROM done WHERE tenant_id = the_tenant AND job_id = m.child_id AND m.value IS NULL AND m.status = 'completed'
        OFFSET 0
    ) d ON true
    WHERE m.tenant_id = the_tenant AND m.run_id = source
      AND (m.id <= last_seen OR m.kind = 'signal'
           OR (m.kind IN ('ended', 'fired') AND m.no < end_no AND coalesce(m.status, 'completed') = 'completed'));
    IF source = target THEN
        DELETE FROM flow_turn WHERE tenant_id = the_tenant AND run_id = source AND number >= cut;
        DELETE FROM flow_step WHERE tenant_id = the_tenant AND run_id = source AND no >= end_no;
        DELETE FROM flow_mail WHERE tenant_id = the_tenant AND run_id = source;
    ELSE
        INSERT INTO flow_turn (tenant_id, run_id, number, epoch, first_no, at, taken, patched, warnings)
        SELECT the_tenant, target, number, 0, first_no, at, taken, patched, warnings
        FROM flow_turn WHERE tenant_id = the_tenant AND run_id = source AND number < cut;
        INSERT INTO flow_step (tenant_id, run_id, no, key, kind, name, input_hash, target, job_id, abandon, input, due, at)
        SELECT the_tenant, flow_fork.target, s.no, s.key, s.kind, s.name, s.input_hash, s.target, s.job_id, s.abandon, s.input,
               s.due, s.at
        FROM flow_step s WHERE s.tenant_id = the_tenant AND s.run_id = source AND s.no < end_no;
    END IF;
    -- Jobs of steps without an end.
    FOR one IN
        SELECT s.no, s.job_id, d.status, d.finished_at FROM flow_step s
        LEFT JOIN LATERAL (SELECT status, finished_at FROM done WHERE tenant_id = the_tenant AND job_id = s.job_id OFFSET 0) d ON true
        WHERE s.tenant_id = the_tenant AND s.run_id = flow_fork.target AND s.job_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM kept_mail k WHERE k.no = s.no AND k.kind = 'ended')
        ORDER BY s.no
    LOOP
        IF one.status = 'completed' THEN
            INSERT INTO kept_mail (id, kind, no, name, status, child_id, value, at)
            SELECT 2147483647, 'ended', one.no, '', 'completed', one.job_id, result, clock()
            FROM done WHERE tenant_id = the_tenant AND job_id = one.job_id;
        ELSIF one.status IS DISTINCT FROM 'cancelled' OR one.finished_at >= source_ended_at THEN
            new_id := flow_new_id();
            INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts, timeout_seconds,
                             created_at, concurrency_key, parent_id, step_no)
            SELECT tenant_id, new_id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts, timeout_seconds,
                   clock(), concurrency_key, flow_fork.target, one.no
            FROM job WHERE tenant_id = the_tenant AND id = one.job_id;
            IF FOUND THEN
                INSERT INTO flow_gate (tenant_id, run_id, lane_id, series_id, submitter_id, input_bytes, max_attempts, first_position,
                                       enqueued_at, concurrency_key, parent_id, step_no)
                SELECT j.tenant_id, j.id, j.lane_id, j.series_id, j.submitter_id, octet_length(j.input::text), j.max_attempts,
                       flow_position(the_tenant), clock(), j.concurrency_key, j.parent_id, j.step_no
                FROM job j JOIN series s ON s.tenant_id = the_tenant AND s.id = j.series_id
                WHERE j.tenant_id = the_tenant AND j.id = new_id AND s.task_type = 'flow';
                PERFORM flow_enqueue(the_tenant, new_id, flow_fork.target, one.no, 'job.created');
                UPDATE flow_step SET job_id = new_id WHERE tenant_id = the_tenant AND run_id = flow_fork.target AND no = one.no;
                child_count := child_count + 1;
            END IF;
        END IF;
    END LOOP;
    INSERT INTO flow_mail (tenant_id, run_id, id, kind, no, name, status, child_id, value, category, message, key, at)
    SELECT the_tenant, flow_fork.target, row_number() OVER (ORDER BY id), kind, no, name, status, child_id, value, category, message,
           key, at
    FROM kept_mail;
    GET DIAGNOSTICS mail_count = ROW_COUNT;
    DROP TABLE kept_mail;
    INSERT INTO flow_timer (tenant_id, run_id, no, run_at)
    SELECT the_tenant, flow_fork.target, s.no, to_timestamp(s.due) FROM flow_step s
    WHERE s.tenant_id = the_tenant AND s.run_id = flow_fork.target AND s.due IS NOT NULL
      AND NOT EXISTS (SELECT FROM flow_mail m WHERE m.tenant_id = the_tenant AND m.run_id = flow_fork.target AND m.no = s.no)
    ON CONFLICT DO NOTHING;
    INSERT INTO flow_wait (tenant_id, run_id, no, kind, match, probe, after)
    SELECT the_tenant, flow_fork.target, s.no, s.name, s.input, flow_probe(s.name, s.input), g.first_position FROM flow_step s
    JOIN flow_gate g ON g.tenant_id = the_tenant AND g.run_id = s.run_id
    WHERE s.tenant_id = the_tenant AND s.run_id = flow_fork.target AND s.kind = 'event'
      AND NOT EXISTS (SELECT FROM flow_mail m WHERE m.tenant_id = the_tenant AND m.run_id = flow_fork.target AND m.no = s.no)
    ON CONFLICT DO NOTHING;
    UPDATE flow_gate SET turns = cut, seen = last_seen, arrived = mail_count, urgent = mail_count > last_seen, children = child_count,
                         started_at = CASE WHEN cut > 0 THEN to_timestamp(began_at) END
    WHERE tenant_id = the_tenant AND run_id = flow_fork.target;
    PERFORM flow_enqueue(the_tenant, flow_fork.target, g.parent_id, g.step_no,
                         CASE WHEN source = flow_fork.target THEN 'job.retried' ELSE 'job.created' END)
    FROM flow_gate g WHERE g.tenant_id = the_tenant AND g.run_id = flow_fork.target;
END $$;

-- Makes a job ready that is in no table of states, or blocks it until its concurrency key has a free place.
CREATE FUNCTION flow_enqueue(the_tenant integer, the_job uuid, parent uuid, step integer, kind text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH new AS MATERIALIZED (
        SELECT j.*, octet_length(j.input::text) AS input_bytes,
               j.concurrency_key IS NOT NULL AND EXISTS (SELECT FROM limited_lane WHERE id = j.lane_id OFFSET 0) AS is_blocked
        FROM job j WHERE j.tenant_id = the_tenant AND j.id = the_job
    ), queued AS (
        INSERT INTO ready (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, id, lane_id, series_id, max_attempts, submitter_id, input_bytes, clock(), concurrency_key, parent, step
        FROM new WHERE NOT is_blocked
    ), blocked AS (
        INSERT INTO later (tenant_id, job_id, lane_id, series_id, max_attempts, submitter_id, input_bytes, enqueued_at,
                           concurrency_key, parent_id, step_no)
        SELECT the_tenant, id, lane_id, series_id, max_attempts, submitter_id, input_bytes, clock(), concurrency_key, parent, step
        FROM new WHERE is_blocked
    ), counted AS (
        INSERT INTO stat_delta (tenant_id, series_id, pending) SELECT the_tenant, series_id, 1 FROM new
    )
    INSERT INTO event (tenant_id, at, kind, job_ids, series_ids, attempts, run_ids)
    SELECT the_tenant, clock(), flow_enqueue.kind, ARRAY[id], ARRAY[series_id], ARRAY[0],
           CASE WHEN parent IS NOT NULL THEN ARRAY[parent] END
    FROM new;
END $$;
