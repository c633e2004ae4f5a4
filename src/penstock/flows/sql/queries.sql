-- Runs of flows: turns, parking, mail and history. The functions are in the migration 0008_flows, because several statements of
-- jobs use them as well. The rules at the head of penstock/jobs/sql/queries.sql hold here too.


-- name: commit(tenant_id, run_ids, epochs, numbers, counts, befores, ats, seens, needs, parks, ends, progresses, recordeds, recorded_ats, childrens, tn_run, tn_number, tn_at, tn_first_no, tn_taken, tn_patched, tn_warnings, st_run, st_no, st_key, st_kind, st_name, st_hash, st_target, st_job, st_abandon, st_input, st_due, jb_run, jb_no, jb_id, jb_series, jb_lane, jb_input, jb_bytes, jb_attempts, jb_timeout, jb_key, jb_gate, rc_run, rc_order, rc_no, rc_value, rc_category, rc_message, dr_run, dr_no, bl_job, bl_first, bl_items, bl_inputs)
-- Stores turns; see flow_commit(). Locks: lease rows in job id order, then gates in the order of their ids.
SELECT * FROM flow_commit(
    :tenant_id, :run_ids, :epochs, :numbers, :counts, :befores, :ats, :seens, :needs, :parks,
    :ends, :progresses, :recordeds, :recorded_ats, :childrens,
    :tn_run, :tn_number, :tn_at, :tn_first_no, :tn_taken, :tn_patched, :tn_warnings,
    :st_run, :st_no, :st_key, :st_kind, :st_name, :st_hash, :st_target, :st_job, :st_abandon, :st_input, :st_due,
    :jb_run, :jb_no, :jb_id, :jb_series, :jb_lane, :jb_input, :jb_bytes, :jb_attempts, :jb_timeout, :jb_key, :jb_gate,
    :rc_run, :rc_order, :rc_no, :rc_value, :rc_category, :rc_message,
    :dr_run, :dr_no, :bl_job, :bl_first, :bl_items, :bl_inputs);


-- name: park(tenant_id, run_ids, epochs)
-- Parks resident runs that have no mail to consume; returns them. Locks: as commit.
SELECT flow_park(:tenant_id, :run_ids, :epochs) AS run_id;


-- name: hold(tenant_id, run_ids, epochs, reasons, details, code)
-- Holds runs whose code cannot continue; returns those whose epoch still held. Locks: as commit.
SELECT flow_hold(:tenant_id, :run_ids, :epochs, :reasons, :details, :code) AS run_id;


-- name: release(tenant_id, run_ids)
-- Releases held runs; returns them, with the model profile of their queue. Locks: gates in the order of their ids.
SELECT run_id, woken FROM flow_release(:tenant_id, :run_ids);


-- name: died(tenant_id, run_id, epoch)
-- Counts that a flow process has died while it ran this run; returns how often since the run's last turn. Locks: the lease, then the
-- gate.
WITH held AS MATERIALIZED (
    SELECT job_id FROM lease WHERE tenant_id = :tenant_id AND job_id = :run_id AND epoch = :epoch FOR UPDATE
)
UPDATE flow_gate g SET deaths = g.deaths + 1 FROM held h
WHERE g.tenant_id = :tenant_id AND g.run_id = :run_id AND h.job_id = g.run_id RETURNING g.deaths;


-- name: gates(tenant_id, run_ids)
-- Returns the state of runs that have not ended, and the time. Index: primary key of flow_gate.
SELECT g.*, extract(epoch FROM clock())::float8 AS now
FROM unnest(:run_ids::uuid[]) AS w(run_id)
CROSS JOIN LATERAL (
    SELECT run_id, arrived, seen, need, turns, is_map, urgent, parked_at, hold, deaths, lane_id, concurrency_key,
           extract(epoch FROM started_at)::float8 AS started_at
    FROM flow_gate WHERE tenant_id = :tenant_id AND run_id = w.run_id OFFSET 0
) g;


-- name: turns(tenant_id, run_ids)
-- Returns the stored turns of runs, in order. Index: primary key of flow_turn.
SELECT t.* FROM unnest(:run_ids::uuid[]) AS w(run_id)
CROSS JOIN LATERAL (
    SELECT run_id, number, at, taken, first_no, patched, warnings FROM flow_turn
    WHERE tenant_id = :tenant_id AND run_id = w.run_id ORDER BY number OFFSET 0
) t;


-- name: steps(tenant_id, run_ids)
-- Returns the stored steps of runs, in order. Index: primary key of flow_step.
SELECT s.* FROM unnest(:run_ids::uuid[]) AS w(run_id)
CROSS JOIN LATERAL (
    SELECT run_id, no, key, kind, name, input_hash, target, job_id, input, due, at FROM flow_step
    WHERE tenant_id = :tenant_id AND run_id = w.run_id ORDER BY no OFFSET 0
) s;


-- name: mail(tenant_id, run_ids, afters)
-- Returns the mail of runs after an id, in order. A result that was too large to copy is read from the job that ended.
-- Index: primary keys of flow_mail and done.
SELECT m.run_id, m.id, m.kind, m.no, m.name, m.status, coalesce(m.value, d.result) AS value, m.category, m.message,
       extract(epoch FROM m.at)::float8 AS at
FROM unnest(:run_ids::uuid[], :afters::int[]) AS w(run_id, after)
CROSS JOIN LATERAL (
    SELECT * FROM flow_mail WHERE tenant_id = :tenant_id AND run_id = w.run_id AND id > w.after ORDER BY id OFFSET 0
) m
LEFT JOIN LATERAL (
    SELECT result FROM done
    WHERE tenant_id = :tenant_id AND job_id = m.child_id AND m.value IS NULL AND m.status = 'completed' OFFSET 0
) d ON true;


-- name: signal(tenant_id, run_id, name, value, key, most)
-- Delivers a signal to a run, once for each key, unless it has "most" unread pieces of mail; see flow_signal().
SELECT run_id, woken, id, is_full FROM flow_signal(:tenant_id, :run_id, :name, :value, :key, :most);
