-- The state of providers, as each worker last reported it. It has no tenant, because providers are configured for all of
-- them. Workers report it again if it is lost, so the table is not written to the write-ahead log.

CREATE UNLOGGED TABLE provider_report (
    worker_id text NOT NULL,
    provider  text NOT NULL,
    at        timestamptz NOT NULL,
    report    json NOT NULL,
    PRIMARY KEY (worker_id, provider)
) WITH (fillfactor = 50);
