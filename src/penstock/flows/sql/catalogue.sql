-- The flows that runners have, and runs by flow. Loaded by penstock.flows.sql.catalogue.
-- The rules at the head of penstock/jobs/sql/queries.sql hold here too.


-- name: publish(names, versions, descriptions, inputs, outputs, examples, priorities, code)!
-- tenant: every (flows belong to the operator)
-- Stores the flows that a runner has, and records that it is alive. Locks: rows of flow_version, in key order.
INSERT INTO flow_version AS v (name, version, description, input_schema, output_schema, examples, priority, code,
                               published_at, seen_at)
SELECT f.name, f.version, f.description, f.input, f.output, f.examples, f.priority, :code::text, clock(), clock()
FROM unnest(:names::text[], :versions::text[], :descriptions::text[], :inputs::json[], :outputs::json[], :examples::json[],
            :priorities::int[])
     AS f(name, version, description, input, output, examples, priority)
ORDER BY f.name, f.version
ON CONFLICT (name, version) DO UPDATE
SET description = excluded.description, input_schema = excluded.input_schema, output_schema = excluded.output_schema,
    examples = excluded.examples, priority = excluded.priority, code = excluded.code,
    published_at = CASE WHEN v.code <> excluded.code THEN clock() ELSE v.published_at END, seen_at = clock();


-- name: release_held(profiles, code)
-- tenant: every (a runner serves all tenants; the rows carry theirs)
-- Releases the runs that were held with other code of their flow. Returns them with the model profile of their queue. Locks: gates, in
-- the order of their ids for each tenant. Index: flow_gate_held.
SELECT h.tenant_id, r.run_id AS mailed, r.woken
FROM (
    SELECT g.tenant_id, array_agg(g.run_id) AS run_ids
    FROM flow_gate g JOIN lane n ON n.tenant_id = g.tenant_id AND n.id = g.lane_id
    WHERE g.hold IS NOT NULL AND n.model_profile = ANY (:profiles::text[]) AND g.held_code IS DISTINCT FROM :code::text
      AND g.hold <> 'compensation'
    GROUP BY g.tenant_id ORDER BY g.tenant_id
) h
CROSS JOIN LATERAL flow_release(h.tenant_id, h.run_ids) r;


-- name: versions(alive_seconds)
-- tenant: every (flows belong to the operator)
-- Returns the known flows, and whether a runner has each now.
SELECT name, version, description, input_schema, output_schema, examples, priority, published_at,
       seen_at > clock() - make_interval(secs => :alive_seconds::float8) AS alive
FROM flow_version ORDER BY name, published_at;


-- name: version_of(name, version, alive_seconds)
-- tenant: every (flows belong to the operator)
-- Returns one version of a flow. If version is null: the one published last, preferably of those that a runner has now.
SELECT name, version, description, input_schema, output_schema, examples, priority,
       seen_at > clock() - make_interval(secs => :alive_seconds::float8) AS alive
FROM flow_version WHERE name = :name AND (:version::text IS NULL OR version = :version)
ORDER BY seen_at > clock() - make_interval(secs => :alive_seconds::float8) DESC, published_at DESC, version DESC LIMIT 1;
