-- Maintenance of flows across all tenants. Loaded by penstock.flows.sql.duties.
-- The rules at the head of penstock/jobs/sql/queries.sql hold here too.


-- name: fire_timers(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Delivers the timers that are due to their runs, in the transaction that deletes them. Returns the runs, and how many timers were due.
-- Locks: flow_timer rows in due order, skipping locked ones; then gates. Index: flow_timer_due.
WITH due AS MATERIALIZED (
    SELECT ctid AS row_tid FROM flow_timer WHERE run_at <= clock()
    ORDER BY run_at, tenant_id, run_id, no LIMIT :limit::int FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM flow_timer WHERE ctid = ANY (ARRAY(SELECT row_tid FROM due)) RETURNING tenant_id, run_id, no, run_at
)
SELECT g.tenant_id, d.run_id AS mailed, d.woken, (SELECT count(*) FROM due) AS looked
FROM (
    SELECT tenant_id, array_agg(ROW(run_id, 'fired', no, '', NULL, NULL, NULL, NULL, NULL, NULL)::flow_letter
                                ORDER BY run_at, run_id, no) AS letters
    FROM gone GROUP BY tenant_id ORDER BY tenant_id
) g
LEFT JOIN LATERAL flow_deliver(g.tenant_id, g.letters) d ON true;


-- name: work()
-- tenant: every (no row)
-- Returns what there is to do, in one statement, because most passes find nothing: the seconds until the next timer is due, or null
-- if there is none; whether any run waits for events; whether any job is to be cancelled. Indexes: flow_timer_due; primary keys.
SELECT (SELECT extract(epoch FROM run_at - clock())::float8 FROM flow_timer
        ORDER BY run_at, tenant_id, run_id, no LIMIT 1) AS timer_in,
       EXISTS (SELECT FROM flow_wait) AS waits, EXISTS (SELECT FROM flow_doomed) AS doomed;


-- name: take_doomed(limit)
-- tenant: every (maintenance; the rows carry their tenant)
-- Takes jobs to cancel, in the transaction that cancels them. Locks: rows of flow_doomed, skipping locked ones.
DELETE FROM flow_doomed WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM flow_doomed ORDER BY tenant_id, job_id LIMIT :limit::int FOR UPDATE SKIP LOCKED))
RETURNING tenant_id, job_id;


-- name: doom(tenant_id, job_ids)!
-- Marks jobs for cancellation.
INSERT INTO flow_doomed (tenant_id, job_id) SELECT :tenant_id, j.id FROM unnest(:job_ids::uuid[]) AS j(id) ORDER BY j.id
ON CONFLICT DO NOTHING;


-- name: match_events(limit)
-- tenant: every (maintenance; rows keep their tenant)
-- Delivers events to the runs that wait for them; see flow_match_events(). Returns the runs, and the tenants that have more events.
SELECT w.tenant_id, d.run_id AS mailed, d.woken, d.more
FROM (SELECT DISTINCT tenant_id FROM flow_wait ORDER BY tenant_id) w
CROSS JOIN LATERAL flow_match_events(w.tenant_id, :limit::int) d;
