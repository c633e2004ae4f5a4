-- How providers stand with workers: what each worker last reported. It belongs to the house, not to a tenant: providers
-- are configured for all of them. Losing it loses nothing, so it is not written ahead.

CREATE UNLOGGED TABLE provider_report (
    worker_id text NOT NULL,
    provider  text NOT NULL,
    at        timestamptz NOT NULL,
    report    json NOT NULL,
    PRIMARY KEY (worker_id, provider)
) WITH (fillfactor = 50);
