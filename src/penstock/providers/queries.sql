-- Reports of workers about providers. Loaded by penstock.providers.store.

-- name: put_reports(worker_id, providers, reports)
-- tenant: every (maintenance)
-- Store the reports of one worker in place of its earlier ones. Locks: its own rows, in order of their providers.
WITH said AS (
    SELECT * FROM unnest(:providers::text[], :reports::json[]) AS s(provider, report) ORDER BY provider
), gone AS (
    DELETE FROM provider_report
    WHERE worker_id = :worker_id AND provider <> ALL (:providers::text[])
)
INSERT INTO provider_report (worker_id, provider, at, report)
SELECT :worker_id::text, provider, clock(), report FROM said
ON CONFLICT (worker_id, provider) DO UPDATE SET at = excluded.at, report = excluded.report;


-- name: drop_reports(worker_id)
-- tenant: every (maintenance)
-- Remove the reports of a worker that stops. Locks: its own rows.
DELETE FROM provider_report WHERE worker_id = :worker_id RETURNING provider;


-- name: sweep_reports(seconds)
-- tenant: every (maintenance)
-- Remove old reports, of workers that have ended. Locks: those rows, skipping rows that are being written.
DELETE FROM provider_report WHERE (worker_id, provider) IN (
    SELECT worker_id, provider FROM provider_report WHERE at < clock() - make_interval(secs => :seconds::float8)
    ORDER BY worker_id, provider LIMIT 1000 FOR UPDATE SKIP LOCKED
) RETURNING provider;


-- name: recent_reports(seconds)
-- tenant: every (maintenance)
-- Return recent reports; age in seconds.
SELECT worker_id, provider, report, extract(epoch FROM clock() - at)::float8 AS age
FROM provider_report WHERE at > clock() - make_interval(secs => :seconds::float8)
ORDER BY provider, worker_id LIMIT 1000;
