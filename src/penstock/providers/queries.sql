-- What workers report of providers. Loaded by penstock.providers.store.

-- name: put_reports(worker_id, providers, reports)
-- tenant: every (of the house)
-- What one worker has to say now; what it said before of other providers goes, and what silent workers said long ago.
-- Locks: its own rows, in order of their providers.
WITH said AS (
    SELECT * FROM unnest(:providers::text[], :reports::json[]) AS s(provider, report) ORDER BY provider
), gone AS (
    DELETE FROM provider_report
    WHERE (worker_id = :worker_id AND provider <> ALL (:providers::text[])) OR at < clock() - interval '1 hour'
)
INSERT INTO provider_report (worker_id, provider, at, report)
SELECT :worker_id::text, provider, clock(), report FROM said
ON CONFLICT (worker_id, provider) DO UPDATE SET at = excluded.at, report = excluded.report;


-- name: drop_reports(worker_id)
-- tenant: every (of the house)
-- A worker has stopped.
DELETE FROM provider_report WHERE worker_id = :worker_id;


-- name: recent_reports(seconds)
-- tenant: every (of the house)
-- What workers said lately; age in seconds.
SELECT worker_id, provider, report, extract(epoch FROM clock() - at)::float8 AS age
FROM provider_report WHERE at > clock() - make_interval(secs => :seconds::float8)
ORDER BY provider, worker_id LIMIT 1000;
