-- The apps that workers have. Loaded by penstock.apps.catalogue.
-- Apps belong to the operator, so their rows have no tenant.


-- name: publish(names, versions, manifests, problems)!
-- tenant: every (apps belong to the operator)
-- Stores the apps that a worker has, and records that it is alive. Locks: rows of app, in key order. Index: primary key.
INSERT INTO app AS a (name, version, manifest, problems, published_at, seen_at)
SELECT n.name, n.version, n.manifest, n.problems, clock(), clock()
FROM unnest(:names::text[], :versions::text[], :manifests::json[], :problems::json[]) AS n(name, version, manifest, problems)
ORDER BY n.name, n.version
ON CONFLICT (name, version) DO UPDATE
SET manifest = excluded.manifest, problems = excluded.problems, seen_at = clock(),
    published_at = CASE WHEN a.manifest::text IS DISTINCT FROM excluded.manifest::text THEN clock() ELSE a.published_at END;


-- name: forget_broken(names)!
-- tenant: every (apps belong to the operator)
-- Removes the mistakes of apps that are valid now for the first time. Locks: rows of app, in key order. Index: primary key.
WITH old AS MATERIALIZED (
    SELECT name FROM app WHERE name = ANY (:names::text[]) AND version = '' ORDER BY name FOR UPDATE
)
DELETE FROM app WHERE name IN (SELECT name FROM old) AND version = '';


-- name: forget_old(days)!
-- tenant: every (apps belong to the operator)
-- Removes apps that no worker has had for this many days. Locks: rows of app, in key order. Scans app, which is small.
WITH old AS MATERIALIZED (
    SELECT name, version FROM app WHERE seen_at < clock() - make_interval(days => :days::int)
    ORDER BY name, version FOR UPDATE
)
DELETE FROM app WHERE (name, version) IN (SELECT name, version FROM old);


-- name: find(name, alive_seconds)
-- tenant: every (apps belong to the operator)
-- Returns one app: the version published last of those that a worker has now. Index: primary key.
SELECT name, version, manifest, problems, seen_at > clock() - make_interval(secs => :alive_seconds::float8) AS alive
FROM app WHERE name = :name
ORDER BY seen_at > clock() - make_interval(secs => :alive_seconds::float8) DESC, manifest IS NULL, published_at DESC, version DESC
LIMIT 1;


-- name: list(alive_seconds)
-- tenant: every (apps belong to the operator)
-- Returns all apps, one version of each, chosen as by find. Index: primary key.
SELECT DISTINCT ON (name) name, version, manifest, problems,
       seen_at > clock() - make_interval(secs => :alive_seconds::float8) AS alive
FROM app
ORDER BY name, seen_at > clock() - make_interval(secs => :alive_seconds::float8) DESC, manifest IS NULL, published_at DESC,
         version DESC;
