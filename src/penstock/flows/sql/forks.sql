-- Retries and reruns. Loaded by penstock.flows.sql.forks.
-- The rules at the head of penstock/jobs/sql/queries.sql hold here too.


-- name: ended_run(tenant_id, run_id)
-- Locks the final state of a run and returns it, with whether its parent is unfinished. Locks: the row of done.
SELECT d.status, d.finished_at,
       EXISTS (SELECT FROM flow_gate WHERE tenant_id = :tenant_id AND run_id = j.parent_id OFFSET 0) AS has_parent
FROM (SELECT job_id, status, finished_at FROM done WHERE tenant_id = :tenant_id AND job_id = :run_id FOR UPDATE) d
CROSS JOIN LATERAL (SELECT parent_id FROM job WHERE tenant_id = :tenant_id AND id = d.job_id OFFSET 0) j;


-- name: failed_step(tenant_id, run_id)
-- Returns the step that failed last, and the mail with its end. Index: primary keys, all mail of the run.
SELECT m.id, m.no, s.kind FROM (
    SELECT id, no FROM flow_mail
    WHERE tenant_id = :tenant_id AND run_id = :run_id AND kind = 'ended' AND status <> 'completed' ORDER BY id DESC LIMIT 1
) m
CROSS JOIN LATERAL (SELECT kind FROM flow_step WHERE tenant_id = :tenant_id AND run_id = :run_id AND no = m.no OFFSET 0) s;


-- name: turn_that_took(tenant_id, run_id, mail_id)
-- Returns the number of the turn that consumed a piece of mail. Index: primary key of flow_turn, all turns of the run.
SELECT min(number) FROM flow_turn WHERE tenant_id = :tenant_id AND run_id = :run_id AND :mail_id::int = ANY (taken);


-- name: turn_that_issued(tenant_id, run_id, no)
-- Returns the number of the turn that issued a step. Index: primary key of flow_turn, all turns of the run.
SELECT max(t.number) FROM flow_turn t
WHERE t.tenant_id = :tenant_id AND t.run_id = :run_id AND t.first_no <= :no::int
  AND EXISTS (SELECT FROM flow_step WHERE tenant_id = :tenant_id AND run_id = :run_id AND no = :no::int);


-- name: last_turn(tenant_id, run_id)
-- Returns the number of the last turn; null if there is none.
SELECT max(number) FROM flow_turn WHERE tenant_id = :tenant_id AND run_id = :run_id;


-- name: reopen(tenant_id, run_id)!
-- Removes the final state of a run, and inserts a gate for it, in the transaction that forks its history.
WITH gone AS (
    DELETE FROM done WHERE tenant_id = :tenant_id AND job_id = :run_id RETURNING job_id, series_id, status
), counted AS (
    INSERT INTO stat_delta (tenant_id, series_id, failed, cancelled)
    SELECT :tenant_id, series_id, -(status = 'failed')::int, -(status = 'cancelled')::int FROM gone
)
INSERT INTO flow_gate (tenant_id, run_id, lane_id, series_id, submitter_id, input_bytes, max_attempts, first_position, enqueued_at,
                       concurrency_key)
SELECT :tenant_id, j.id, j.lane_id, j.series_id, j.submitter_id, octet_length(j.input::text), j.max_attempts, 0, clock(),
       j.concurrency_key
FROM gone g
CROSS JOIN LATERAL (SELECT * FROM job WHERE tenant_id = :tenant_id AND id = g.job_id OFFSET 0) j;


-- name: copy_run(tenant_id, run_id, new_id, input, submitter_id)!
-- Inserts a copy of a run, in the transaction that forks its history. If input is null, it has the same input.
WITH new AS (
    INSERT INTO job (tenant_id, id, series_id, lane_id, submitter_id, owner_ref, user_id, input, max_attempts, timeout_seconds,
                     created_at, concurrency_key, tags)
    SELECT :tenant_id, :new_id, series_id, lane_id, :submitter_id, owner_ref, user_id, coalesce(:input::json, input), max_attempts,
           timeout_seconds, clock(), concurrency_key, tags
    FROM job WHERE tenant_id = :tenant_id AND id = :run_id
    RETURNING id, lane_id, series_id, submitter_id, input, max_attempts, concurrency_key
)
INSERT INTO flow_gate (tenant_id, run_id, lane_id, series_id, submitter_id, input_bytes, max_attempts, first_position, enqueued_at,
                       concurrency_key)
SELECT :tenant_id, id, lane_id, series_id, submitter_id, octet_length(input::text), max_attempts, flow_position(:tenant_id), clock(),
       concurrency_key
FROM new;


-- name: fork(tenant_id, source, target, cut, ended_at)!
-- Gives a run the history of another up to a turn; see flow_fork().
SELECT flow_fork(:tenant_id, :source, :target, :cut, :ended_at);


-- name: blocked(tenant_id, run_id)
-- The concurrency keys for which a run or its jobs are blocked. Indexes: job_parent, the key of later by job id.
SELECT DISTINCT l.lane_id, l.concurrency_key
FROM (SELECT id FROM job WHERE tenant_id = :tenant_id AND parent_id = :run_id UNION ALL SELECT :run_id::uuid) j
CROSS JOIN LATERAL (
    SELECT lane_id, concurrency_key FROM later
    WHERE tenant_id = :tenant_id AND job_id = j.id AND run_at IS NULL AND concurrency_key IS NOT NULL OFFSET 0
) l;
