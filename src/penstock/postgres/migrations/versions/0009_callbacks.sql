-- Callbacks: events that are sent to the HTTP endpoints of tenants.
--
-- An event becomes a delivery for each endpoint that wants it. A delivery is in exactly one of callback_ready (not tried yet),
-- callback_later (failed, replayed, or waiting for such a delivery of the same subject) and callback_ended.

-- Endpoints. A tenant registers them, and then digest is NULL; or a submission names one, and equal ones share a row.
CREATE TABLE callback_endpoint (
    tenant_id       integer NOT NULL REFERENCES tenant,
    id              uuid NOT NULL,
    digest          bytea,                   -- of url, events and secret, keyed with the secret of the installation
    url             text NOT NULL,           -- 'marketplace:' if the settings name the address
    events          text[] NOT NULL,         -- the types that it wants; "job.*", "*"
    description     text NOT NULL,
    sealed          bytea,                   -- its secret, encrypted; NULL: messages are not signed
    previous_sealed bytea,                   -- the previous secret, which also signs messages until previous_until
    previous_until  timestamptz,
    secret_id       text REFERENCES instance_secret,  -- encrypts both
    since           bigint NOT NULL,         -- it gets events after this position
    created_at      timestamptz NOT NULL,
    used_on         date,                    -- the last day on which a submission named it
    disabled_at     timestamptz,
    disabled_reason text,
    removed_at      timestamptz,             -- its deliveries, and then the row, are deleted soon
    PRIMARY KEY (tenant_id, id),
    CHECK ((sealed IS NULL) = (secret_id IS NULL)),
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX callback_endpoint_digest ON callback_endpoint (tenant_id, digest) WHERE digest IS NOT NULL;
CREATE INDEX callback_endpoint_secret ON callback_endpoint (secret_id) WHERE secret_id IS NOT NULL;
CREATE INDEX callback_endpoint_removed ON callback_endpoint (removed_at) WHERE removed_at IS NOT NULL;

-- The position up to which the events of a tenant have become deliveries. Each tenant that has ever had an endpoint has a row.
CREATE TABLE callback_cursor (
    tenant_id integer PRIMARY KEY REFERENCES tenant,
    position  bigint NOT NULL,
    kinds     text[] NOT NULL DEFAULT '{}'   -- the types of events that endpoints named by submissions want, all together
) WITH (fillfactor = 50);

-- The jobs whose submissions named an endpoint, or whose results the marketplace gets, written by the transaction that creates
-- them.
CREATE TABLE callback_job (
    tenant_id      integer NOT NULL,
    job_id         uuid NOT NULL,
    endpoint_id    uuid,                     -- that the submission named
    marketplace_id uuid,                     -- the endpoint of the marketplace
    PRIMARY KEY (tenant_id, job_id),
    CHECK (num_nonnulls(endpoint_id, marketplace_id) > 0)
);

-- The state of an endpoint that has had deliveries. A dispatcher that sends to it has a lease; epoch is its fencing number.
-- due_at is when a dispatcher leases it next: when something may be sent or, while it is leased, the end of the lease.
CREATE TABLE callback_state (
    tenant_id    integer NOT NULL,
    endpoint_id  uuid NOT NULL,
    due_at       timestamptz,                -- NULL: nothing waits
    lease_until  timestamptz,
    holder       integer,                    -- number of the advisory lock of the dispatcher that took the lease
    rest_until   timestamptz,                -- it failed, or requested a pause: nothing is sent before this time
    epoch        bigint NOT NULL DEFAULT 0,
    arrivals     bigint NOT NULL DEFAULT 0,  -- how often deliveries were added
    quick        boolean NOT NULL DEFAULT false,  -- its last attempt succeeded quickly; slow endpoints have slots of their own
    failures     integer NOT NULL DEFAULT 0, -- consecutive attempts that show a receiver that is down
    failing_since timestamptz,
    waiting      bigint NOT NULL DEFAULT 0,  -- deliveries that have not ended
    delivered    bigint NOT NULL DEFAULT 0,
    dead         bigint NOT NULL DEFAULT 0,
    failed       bigint NOT NULL DEFAULT 0,  -- attempts
    PRIMARY KEY (tenant_id, endpoint_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX callback_state_holder ON callback_state (holder) WHERE holder IS NOT NULL;
CREATE SEQUENCE callback_dispatcher AS integer CYCLE;
CREATE INDEX callback_state_due ON callback_state (quick, due_at) WHERE due_at IS NOT NULL;

-- Deliveries that were not tried yet, in the order of their events. A tenant's rows are added in that order.
CREATE TABLE callback_ready (
    tenant_id   integer NOT NULL,
    endpoint_id uuid NOT NULL,
    position    bigint NOT NULL,             -- of the event; with place and mark, its id
    place       integer NOT NULL,
    mark        bigint NOT NULL,
    kind        text NOT NULL,
    source      text NOT NULL,
    subject     text NOT NULL,
    at          timestamptz NOT NULL,
    data        json NOT NULL,
    PRIMARY KEY (tenant_id, endpoint_id, position, place)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off);

CREATE TABLE callback_later (
    tenant_id   integer NOT NULL,
    endpoint_id uuid NOT NULL,
    position    bigint NOT NULL,
    place       integer NOT NULL,
    mark        bigint NOT NULL,
    kind        text NOT NULL,
    source      text NOT NULL,
    subject     text NOT NULL,
    at          timestamptz NOT NULL,
    due_at      timestamptz NOT NULL,
    tries       smallint NOT NULL,           -- since it was added or replayed
    attempts    json NOT NULL,               -- every attempt: when, how long, what the receiver responded
    data        json NOT NULL,
    PRIMARY KEY (tenant_id, endpoint_id, position, place)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        vacuum_truncate = off);
CREATE INDEX callback_later_due ON callback_later (tenant_id, endpoint_id, due_at);
-- A hash index, because the planner would take another one for look-ups by the primary key: the table is often empty.
CREATE INDEX callback_later_subject ON callback_later USING hash (subject);

CREATE TABLE callback_ended (
    tenant_id   integer NOT NULL,
    endpoint_id uuid NOT NULL,
    position    bigint NOT NULL,
    place       integer NOT NULL,
    mark        bigint NOT NULL,
    kind        text NOT NULL,
    source      text NOT NULL,
    subject     text NOT NULL,
    at          timestamptz NOT NULL,
    ended_at    timestamptz NOT NULL,
    status      text NOT NULL CHECK (status IN ('delivered', 'dead')),
    attempts    json NOT NULL,
    data        json NOT NULL,
    PRIMARY KEY (tenant_id, endpoint_id, position, place)
);
CREATE INDEX callback_ended_age ON callback_ended (status, ended_at);
CREATE INDEX callback_ended_dead ON callback_ended (tenant_id, endpoint_id, position, place) WHERE status = 'dead';
