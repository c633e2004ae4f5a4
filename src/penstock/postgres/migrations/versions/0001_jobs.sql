-- Durable jobs. Everything lives in the schema "penstock", which the search path names.
--
-- The facts about a job that never change are in "job", which is never updated. Its state is given by the one narrow
-- table that has a row for it: ready | later | lease | done. Moving a job deletes one row and inserts another.
-- Every row carries its tenant, NOT NULL and without a default, so that no INSERT can forget it.

CREATE TABLE tenant (
    id   integer PRIMARY KEY,
    name text NOT NULL UNIQUE
);
INSERT INTO tenant (id, name) VALUES (1, 'default');

-- The database clock, the source of leases, due times and timestamps. Tests replace it to move time.
CREATE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE RETURN now();

-- The smallest UUIDv7 of a time, which gives the bounds of the partitions by job id.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- Fencing numbers: one growing sequence for all claims of all jobs.
CREATE SEQUENCE epoch AS bigint;
-- Order within a lane. A job that becomes ready again takes a new number, so it always lies ahead of cursors.
CREATE SEQUENCE ready_seq AS bigint;
CREATE SEQUENCE event_id AS bigint;

-- Series: owner, task type and model profile; the dimension of counters and of list filters.
CREATE TABLE series (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     integer NOT NULL REFERENCES tenant,
    owner_service text NOT NULL,
    task_type     text NOT NULL,
    model_profile text NOT NULL,
    UNIQUE (tenant_id, owner_service, task_type, model_profile)
);

-- Submitters: the key and the end user of a request, for its usage. '' means none.
CREATE TABLE submitter (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    key_id    text NOT NULL,
    user_id   text NOT NULL,
    UNIQUE (tenant_id, key_id, user_id)
);

-- Lanes: a queue at one priority; the unit of claiming. Jobs of a lane run in the order of "ready.seq".
-- low_seq is a hint: every ready row of the lane that the housekeeper could see lies at or after it. So a claim starts
-- after the dead rows that a long transaction keeps vacuum from removing. A row that was committed late may lie before
-- it; the housekeeper then lowers the hint, and idle claims scan from the very start.
CREATE TABLE lane (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     integer NOT NULL REFERENCES tenant,
    task_type     text NOT NULL,
    model_profile text NOT NULL,
    priority      smallint NOT NULL CHECK (priority BETWEEN -100 AND 100),
    low_seq       bigint NOT NULL DEFAULT 0,
    UNIQUE (tenant_id, task_type, model_profile, priority)
) WITH (fillfactor = 50);
CREATE INDEX lane_queue ON lane (task_type, model_profile);

CREATE TABLE job (
    tenant_id       integer NOT NULL,
    id              uuid NOT NULL,
    series_id       integer NOT NULL,
    lane_id         integer NOT NULL,
    submitter_id    integer NOT NULL,
    max_attempts    smallint NOT NULL CHECK (max_attempts >= 1),
    timeout_seconds double precision CHECK (timeout_seconds > 0),
    created_at      timestamptz NOT NULL,
    run_at          timestamptz,
    owner_ref       text NOT NULL,
    user_id         text NOT NULL, -- the submitter's, for lists
    idempotency_key text,
    tags            text[],
    input           json NOT NULL,
    PRIMARY KEY (tenant_id, id)
) PARTITION BY RANGE (id);
CREATE INDEX job_series ON job (series_id, id);
CREATE INDEX job_owner_ref ON job (tenant_id, owner_ref, id) WHERE owner_ref <> '';
CREATE INDEX job_user ON job (tenant_id, user_id, id) WHERE user_id <> '';

-- Idempotency keys are in a table of their own: a partitioned table cannot enforce uniqueness over all partitions.
CREATE TABLE idempotency (
    tenant_id     integer NOT NULL,
    owner_service text NOT NULL,
    key           text NOT NULL,
    job_id        uuid NOT NULL,
    PRIMARY KEY (tenant_id, owner_service, key)
);
CREATE INDEX idempotency_job ON idempotency (job_id);

-- Jobs that can run now. attempt: runs begun so far; failures: those that count against max_attempts; losses: lost leases.
-- submitter_id and input_bytes travel with the job through ready, later and lease, for the usage of each attempt.
CREATE TABLE ready (
    lane_id      integer NOT NULL,
    seq          bigint NOT NULL DEFAULT nextval('ready_seq'),
    tenant_id    integer NOT NULL,
    job_id       uuid NOT NULL,
    series_id    integer NOT NULL,
    attempt      integer NOT NULL DEFAULT 0,
    failures     smallint NOT NULL DEFAULT 0,
    losses       smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL,
    submitter_id integer NOT NULL,
    input_bytes  integer NOT NULL,
    enqueued_at  timestamptz NOT NULL,
    PRIMARY KEY (lane_id, seq),
    UNIQUE (tenant_id, job_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.2, vacuum_truncate = off);

-- Jobs that are scheduled, or wait for a retry.
CREATE TABLE later (
    tenant_id    integer NOT NULL,
    job_id       uuid NOT NULL,
    run_at       timestamptz NOT NULL,
    lane_id      integer NOT NULL,
    series_id    integer NOT NULL,
    attempt      integer NOT NULL DEFAULT 0,
    failures     smallint NOT NULL DEFAULT 0,
    losses       smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL,
    submitter_id integer NOT NULL,
    input_bytes  integer NOT NULL,
    enqueued_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, job_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off);
CREATE INDEX later_due ON later (run_at, job_id);

-- Pending jobs that fail when no worker has taken them in time. A row is removed at that time, whatever the job's state.
CREATE TABLE expiry (
    tenant_id  integer NOT NULL,
    job_id     uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, job_id)
);
CREATE INDEX expiry_due ON expiry (expires_at, tenant_id, job_id);

-- Queues that workers have claimed from, and when last, to the minute; used to warn submitters. '' means any.
CREATE TABLE queue_seen (
    tenant_id     integer NOT NULL REFERENCES tenant,
    task_type     text NOT NULL,
    model_profile text NOT NULL,
    seen_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, task_type, model_profile)
) WITH (fillfactor = 50);

-- The same for workers that serve all tenants.
CREATE TABLE shared_queue_seen (
    task_type     text NOT NULL,
    model_profile text NOT NULL,
    seen_at       timestamptz NOT NULL,
    PRIMARY KEY (task_type, model_profile)
) WITH (fillfactor = 50);

-- Running jobs. The only hot table that is updated (by heartbeats); no updated column is indexed.
CREATE TABLE lease (
    tenant_id           integer NOT NULL,
    job_id              uuid NOT NULL,
    epoch               bigint NOT NULL,
    lane_id             integer NOT NULL,
    series_id           integer NOT NULL,
    attempt             integer NOT NULL CHECK (attempt >= 1),
    failures            smallint NOT NULL,
    losses              smallint NOT NULL,
    max_attempts        smallint NOT NULL,
    submitter_id        integer NOT NULL,
    input_bytes         integer NOT NULL,
    enqueued_at         timestamptz NOT NULL,
    started_at          timestamptz NOT NULL,
    lease_until         timestamptz NOT NULL,
    lease_seconds       double precision NOT NULL CHECK (lease_seconds > 0),
    cancel_requested_at timestamptz,
    worker_id           text NOT NULL,
    progress            json,
    chunks              integer NOT NULL DEFAULT 0 CHECK (chunks >= 0), -- stored chunks of this attempt's output
    log_lines           integer NOT NULL DEFAULT 0 CHECK (log_lines >= 0), -- stored lines of this attempt's log
    PRIMARY KEY (tenant_id, job_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- Finished jobs. Rows are appended, and removed only by an explicit retry or with their partition.
CREATE TABLE done (
    tenant_id           integer NOT NULL,
    job_id              uuid NOT NULL,
    series_id           integer NOT NULL,
    attempt             integer NOT NULL,
    epoch               bigint,
    enqueued_at         timestamptz NOT NULL,
    started_at          timestamptz,
    finished_at         timestamptz NOT NULL,
    cancel_requested_at timestamptz,
    status              text NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
    worker_id           text,
    error_category      text,
    error_message       text,
    progress            json,
    result              json,
    usage               json, -- calls of the attempt that completed, as its worker reported them
    PRIMARY KEY (tenant_id, job_id),
    CHECK ((status = 'completed') = (result IS NOT NULL)),
    CHECK ((status = 'failed') <= (error_category IS NOT NULL))
) PARTITION BY RANGE (job_id);
CREATE INDEX done_unsuccessful ON done (tenant_id, status, job_id) WHERE status <> 'completed';
CREATE INDEX done_finished ON done USING brin (finished_at) WITH (pages_per_range = 16);

-- Attempts that failed or were lost.
CREATE TABLE attempt (
    tenant_id   integer NOT NULL,
    job_id      uuid NOT NULL,
    epoch       bigint NOT NULL,
    attempt     integer NOT NULL,
    enqueued_at timestamptz NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    worker_id   text NOT NULL,
    category    text NOT NULL,
    message     text NOT NULL,
    usage       json, -- its calls, as its worker reported them
    PRIMARY KEY (tenant_id, job_id, epoch)
) PARTITION BY RANGE (job_id);

-- Events, each written by the statement that made it happen. An event is about a subject. One row may hold an event for
-- every job of a statement: then job_ids holds the subjects, and the other arrays have one item for each. A row about a
-- single job (its progress, output or log) names it in job_id. Only jobs use the columns from series_id to weight.
-- ids are drawn before the commit, so they become visible out of order: readers never use them.
CREATE TABLE event (
    id         bigint NOT NULL DEFAULT nextval('event_id'),
    tenant_id  integer NOT NULL,
    at         timestamptz NOT NULL,
    kind       text NOT NULL,
    subject    text,
    job_id     uuid,
    job_ids    uuid[],
    series_ids integer[],
    epochs     bigint[],
    attempts   integer[],
    first      integer, -- of output: the number of its first chunk in the attempt's output
    weight     integer, -- bytes of data that may be large, so that readers can limit a page
    data       json,
    CHECK (num_nonnulls(subject, job_id, job_ids) = 1)
) PARTITION BY RANGE (at);
-- Compressing the arrays took a tenth of the time of claims and completions, for ids that hardly shrink.
ALTER TABLE event ALTER COLUMN job_ids SET STORAGE EXTERNAL, ALTER COLUMN series_ids SET STORAGE EXTERNAL,
    ALTER COLUMN epochs SET STORAGE EXTERNAL, ALTER COLUMN attempts SET STORAGE EXTERNAL;
CREATE INDEX event_order ON event (id);
CREATE INDEX event_at ON event (at) WHERE job_ids IS NOT NULL;
CREATE INDEX event_job ON event (tenant_id, job_id, id) WHERE job_id IS NOT NULL;

-- The order in which readers receive events: those of each tenant are numbered 1, 2, 3, … without a gap. position_events()
-- below gives an event its position after the commit; the row is narrow and never changes. "at" is the event's time, so
-- that a position lies in the partition of the same day and is dropped with it.
CREATE TABLE event_position (
    tenant_id integer NOT NULL,
    position  bigint NOT NULL CHECK (position >= 1),
    event_id  bigint NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, position, at)
) PARTITION BY RANGE (at);
CREATE INDEX event_position_event ON event_position (event_id);

-- The progress of the numbering: one row, replaced by each pass that changes it. It is replaced, not updated, and read from
-- the highest pass down, so that no reader scans old versions that a long transaction keeps vacuum from removing.
CREATE TABLE event_pass (
    pass     bigint PRIMARY KEY,
    reached  bigint NOT NULL,          -- the highest event id that has a position
    missing  int8multirange NOT NULL,  -- lower ids that were not visible yet; those of failed statements never will be
    drawn    bigint NOT NULL,          -- the highest id drawn when writers was noted
    writers  text[] NOT NULL,          -- the transactions that may have drawn ids up to it and were still open
    noted_at timestamptz NOT NULL      -- when writers was last compared with the open transactions
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off);
INSERT INTO event_pass (pass, reached, missing, drawn, writers, noted_at) VALUES (0, 0, '{}', 0, '{}', '-infinity');

-- The highest position of each tenant that retention has dropped. Numbering continues above it.
CREATE TABLE event_floor (
    tenant_id integer PRIMARY KEY,
    position  bigint NOT NULL,
    at        timestamptz NOT NULL
);

-- The transactions that write events: each takes this lock before it draws an id, and holds it until it has ended.
CREATE FUNCTION event_writers() RETURNS text[] LANGUAGE sql VOLATILE RETURN ARRAY(
    SELECT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'event'::regclass AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
);

-- Gives positions to committed events that have none, at most a given number, in the order of their ids. Returns how many, or
-- null when another transaction is doing so.
--
-- One pass at a time: the advisory lock is held until the pass has committed, and each statement below takes its own
-- snapshot after the lock was taken, so it sees all earlier passes. Even if the lock failed, each pass has to delete the row
-- of event_pass that it began with, which only one can do; any other pass fails as a whole. An interrupted pass has no
-- effect.
--
-- A failed statement leaves an id that stays missing, and each pass searches for every missing id. Such ids are given up
-- once every transaction that may have drawn them has ended. A pass notes the highest id drawn so far, and after that
-- the open writers of events. A transaction that drew one of these ids either is among them, or it has ended and is
-- visible to the next pass. This state is stored with the events, so it never runs ahead of a database that goes back:
-- restored from a backup, failed over, or crashed. While ids are missing, the writers are compared with the open ones at most
-- once per settle_after.
-- Locks: that advisory lock. Indexes: primary keys, event_order.
CREATE FUNCTION position_events(at_most integer, settle_after interval) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    last event_pass;
    this event_pass;
    settled bigint := 0; -- ids up to this one that are still missing will never be committed
    given integer;
    succeeded boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('penstock.position_events')) THEN
        RETURN NULL;
    END IF;
    SELECT * INTO STRICT last FROM event_pass ORDER BY pass DESC LIMIT 1;
    this := last;
    IF last.missing <> '{}' AND NOT clock_timestamp() - last.noted_at BETWEEN interval '0' AND settle_after THEN
        this.writers := ARRAY(SELECT unnest(last.writers) INTERSECT SELECT unnest(event_writers()));
        IF this.writers = '{}' THEN
            settled := last.drawn;
            this.drawn := (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM event_id);
            this.writers := event_writers();
        END IF;
        this.noted_at := clock_timestamp();
    END IF;
    WITH found AS MATERIALIZED (
        SELECT * FROM (
            SELECT e.* FROM unnest(last.missing) AS m(ids)
            CROSS JOIN LATERAL (
                SELECT id, tenant_id, at FROM event WHERE id >= lower(m.ids) AND id < upper(m.ids) ORDER BY id LIMIT at_most
            ) e
            UNION ALL
            (SELECT id, tenant_id, at FROM event WHERE id > last.reached ORDER BY id LIMIT at_most)
        ) e ORDER BY id LIMIT at_most
    ), outcome AS MATERIALIZED (
        SELECT count(*)::int AS given, greatest(last.reached, max(id)) AS reached,
               coalesce(range_agg(int8range(id, id, '[]')), '{}') AS ids
        FROM found
    ), pass AS MATERIALIZED (
        SELECT o.given, o.reached,
               last.missing + int8multirange(int8range(last.reached, o.reached, '(]')) - o.ids
               - CASE WHEN o.given < at_most THEN int8multirange(int8range(NULL, settled, '[]')) ELSE '{}' END AS missing
        FROM outcome o
    ), tenants AS MATERIALIZED (
        SELECT t.tenant_id, greatest(p.position, f.position, 0) AS position
        FROM (SELECT DISTINCT tenant_id FROM found) t
        LEFT JOIN LATERAL (
            SELECT position FROM event_position WHERE tenant_id = t.tenant_id ORDER BY position DESC LIMIT 1
        ) p ON true
        LEFT JOIN LATERAL (SELECT position FROM event_floor WHERE tenant_id = t.tenant_id LIMIT 1) f ON true
    ), positioned AS (
        INSERT INTO event_position (tenant_id, position, event_id, at)
        SELECT f.tenant_id, t.position + row_number() OVER (PARTITION BY f.tenant_id ORDER BY f.id), f.id, f.at
        FROM found f JOIN tenants t ON t.tenant_id = f.tenant_id
    ), noted AS (
        INSERT INTO event_pass (pass, reached, missing, drawn, writers, noted_at)
        SELECT last.pass + 1, p.reached, p.missing, this.drawn, this.writers, this.noted_at
        FROM pass p WHERE p.given > 0 OR this.noted_at <> last.noted_at
        RETURNING pass
    ), replaced AS (
        DELETE FROM event_pass WHERE pass = last.pass AND EXISTS (SELECT FROM noted) RETURNING pass
    )
    SELECT p.given, (SELECT count(*) FROM noted) = (SELECT count(*) FROM replaced) INTO given, succeeded FROM pass p;
    IF NOT succeeded THEN
        RAISE EXCEPTION 'another pass came between' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN given;
END $$;

-- Counters: appended as deltas, rolled up in the background. The exact value is stat + stat_delta in one snapshot.
CREATE TABLE stat_delta (
    tenant_id integer NOT NULL,
    series_id integer NOT NULL,
    pending   integer NOT NULL DEFAULT 0,
    running   integer NOT NULL DEFAULT 0,
    completed integer NOT NULL DEFAULT 0,
    failed    integer NOT NULL DEFAULT 0,
    cancelled integer NOT NULL DEFAULT 0,
    errors    integer NOT NULL DEFAULT 0,
    category  text NOT NULL DEFAULT ''  -- of the errors; '' for the job counts
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off);
CREATE TABLE stat (
    tenant_id integer NOT NULL,
    series_id integer NOT NULL,
    category  text NOT NULL,  -- '' holds the job counts, any other the errors of that category
    pending   bigint NOT NULL,
    running   bigint NOT NULL,
    completed bigint NOT NULL,
    failed    bigint NOT NULL,
    cancelled bigint NOT NULL,
    errors    bigint NOT NULL,
    PRIMARY KEY (tenant_id, series_id, category)
) WITH (fillfactor = 50);

-- When a background duty last ran, shared by all housekeepers. recovered_at: when it resumed after the last gap.
CREATE TABLE housekeeping (
    duty         text PRIMARY KEY,
    last_at      timestamptz NOT NULL,
    recovered_at timestamptz NOT NULL,
    note         bigint NOT NULL DEFAULT 0  -- lanes: the sequence's position at the last pass
);
INSERT INTO housekeeping (duty, last_at, recovered_at) VALUES ('rescue', clock(), '-infinity'), ('lanes', clock(), '-infinity');

-- Always empty: a process that has found the disk full writes here, and rolls back, to check whether there is space again.
CREATE TABLE write_probe (filler text NOT NULL);
ALTER TABLE write_probe ALTER COLUMN filler SET STORAGE PLAIN;

-- Default partitions for rows of no day's partition: ids from a wrong clock, and unfinished jobs whose day was dropped.
CREATE TABLE job_default PARTITION OF job DEFAULT;
CREATE TABLE done_default PARTITION OF done DEFAULT;
CREATE TABLE attempt_default PARTITION OF attempt DEFAULT;
CREATE TABLE event_default PARTITION OF event DEFAULT;
CREATE TABLE event_position_default PARTITION OF event_position DEFAULT;

-- Creates the partitions of one day where they are missing. They are created apart and then attached, which does not block
-- readers and writers of the parent. A day whose rows already lie in a default partition stays there (returns false).
CREATE FUNCTION ensure_day(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    child text;
    low text;
    high text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('penstock.ensure_day')); -- several housekeepers may begin the same day at once
    FOREACH parent IN ARRAY ARRAY['job', 'done', 'attempt', 'event', 'event_position'] LOOP
        child := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
        CONTINUE WHEN to_regclass(format('%I', child)) IS NOT NULL;
        IF parent IN ('event', 'event_position') THEN
            low := (day::timestamp AT TIME ZONE 'UTC')::text;
            high := ((day + 1)::timestamp AT TIME ZONE 'UTC')::text;
        ELSE
            low := uuid_floor(day::timestamp AT TIME ZONE 'UTC')::text;
            high := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC')::text;
        END IF;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, low, high);
    END LOOP;
    RETURN true;
EXCEPTION WHEN check_violation THEN
    RETURN false;
END $$;

SELECT ensure_day((now() AT TIME ZONE 'UTC')::date + ahead) FROM generate_series(-1, 7) ahead;

-- One whole row per job: joins the split tables for reading.
CREATE VIEW jobs AS
SELECT j.tenant_id, j.id, j.series_id, j.lane_id, s.owner_service, j.owner_ref, j.user_id, b.key_id, s.task_type,
       s.model_profile, n.priority,
       j.input, j.max_attempts, j.timeout_seconds, j.idempotency_key, j.tags, j.created_at,
       coalesce(w.run_at, j.run_at) AS run_at, x.expires_at,
       CASE WHEN d.job_id IS NOT NULL THEN d.status
            WHEN l.job_id IS NOT NULL THEN 'running'
            WHEN r.job_id IS NOT NULL OR w.job_id IS NOT NULL THEN 'pending' END AS status,
       coalesce(d.attempt, l.attempt, r.attempt, w.attempt) AS attempt,
       coalesce(d.epoch, l.epoch) AS epoch,
       coalesce(d.worker_id, l.worker_id) AS worker_id,
       l.lease_until AS lease_expires_at,
       coalesce(d.cancel_requested_at, l.cancel_requested_at) AS cancel_requested_at,
       coalesce(d.enqueued_at, l.enqueued_at, r.enqueued_at, w.enqueued_at) AS enqueued_at,
       coalesce(d.started_at, l.started_at) AS started_at,
       d.finished_at, coalesce(d.progress, l.progress) AS progress, d.result, d.usage, d.error_category, d.error_message
FROM job j
JOIN series s ON s.id = j.series_id
JOIN lane n ON n.id = j.lane_id
JOIN submitter b ON b.id = j.submitter_id
LEFT JOIN ready r ON r.tenant_id = j.tenant_id AND r.job_id = j.id
LEFT JOIN later w ON w.tenant_id = j.tenant_id AND w.job_id = j.id
LEFT JOIN lease l ON l.tenant_id = j.tenant_id AND l.job_id = j.id
LEFT JOIN done d ON d.tenant_id = j.tenant_id AND d.job_id = j.id
LEFT JOIN expiry x ON x.tenant_id = j.tenant_id AND x.job_id = j.id;

-- Drops the partitions of one day. A job of that day that is not finished, or finished at or after the cutoff, is kept:
-- it moves to the default partition, where retention removes it by row later. Returns how many were kept, or null when
-- there is no such partition. Blocks all use of the tables while it runs, for as long as moving the kept jobs takes;
-- raises lock_not_available when it does not get their locks soon: before the server checks for deadlocks (after 1 s), which
-- might cancel a caller's statement instead.
CREATE FUNCTION drop_day(day date, cutoff timestamptz) RETURNS bigint LANGUAGE plpgsql
    SET lock_timeout = '400ms' SET enable_seqscan = on SET enable_hashjoin = on SET plan_cache_mode = auto AS $$
DECLARE
    suffix text := to_char(day, 'YYYYMMDD');
    low uuid := uuid_floor(day::timestamp AT TIME ZONE 'UTC');
    high uuid := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
    parent text;
    kept bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('penstock.position_events'));
    LOCK TABLE ONLY job, ONLY done, ONLY attempt, ONLY event, ONLY event_position IN ACCESS EXCLUSIVE MODE;
    IF to_regclass(format('%I', 'event_' || suffix)) IS NOT NULL THEN
        LOOP -- every dropped event has a position, so that readers detect the loss
            EXIT WHEN position_events(10000, interval '10 seconds') < 10000;
        END LOOP;
        EXECUTE format($raise$
            INSERT INTO event_floor AS f (tenant_id, position, at)
            SELECT DISTINCT ON (tenant_id) tenant_id, position, at FROM %I ORDER BY tenant_id, position DESC
            ON CONFLICT (tenant_id) DO UPDATE SET position = excluded.position, at = excluded.at
            WHERE f.position < excluded.position
        $raise$, 'event_position_' || suffix);
        FOREACH parent IN ARRAY ARRAY['event', 'event_position'] LOOP
            EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, parent || '_' || suffix);
            EXECUTE format('DROP TABLE %I', parent || '_' || suffix);
        END LOOP;
    END IF;
    IF to_regclass(format('%I', 'job_' || suffix)) IS NULL THEN
        RETURN NULL;
    END IF;
    CREATE TEMPORARY TABLE kept_job (job_id uuid PRIMARY KEY) ON COMMIT DROP;
    EXECUTE format($insert$
        INSERT INTO kept_job
        SELECT job_id FROM ready WHERE job_id >= $1 AND job_id < $2
        UNION SELECT job_id FROM later WHERE job_id >= $1 AND job_id < $2
        UNION SELECT job_id FROM lease WHERE job_id >= $1 AND job_id < $2
        UNION SELECT job_id FROM %I WHERE finished_at >= $3
    $insert$, 'done_' || suffix) USING low, high, cutoff;
    FOREACH parent IN ARRAY ARRAY['job', 'done', 'attempt'] LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, parent || '_' || suffix);
        EXECUTE format('INSERT INTO %I SELECT p.* FROM %I p JOIN kept_job k ON k.job_id = p.%I',
                       parent, parent || '_' || suffix, CASE parent WHEN 'job' THEN 'id' ELSE 'job_id' END);
        EXECUTE format('DROP TABLE %I', parent || '_' || suffix);
    END LOOP;
    SELECT count(*) INTO kept FROM kept_job;
    DROP TABLE kept_job;
    RETURN kept;
END $$;
