-- Statistics of requests. Loaded by penstock.apps.statistics.


-- name: calendar(tenant_id)
-- Returns the tenant's time zone, and the present day in it. Index: primary key.
SELECT time_zone, (clock() AT TIME ZONE time_zone)::date AS today FROM tenant WHERE id = :tenant_id;


-- name: days(tenant_id, app, user_id, low, high)
-- Returns the sums of each day from low up to but not including high, of a user or ('') of all. Index: primary key of app_day.
SELECT * FROM app_day
WHERE tenant_id = :tenant_id AND app = :app AND user_id = :user_id AND day >= :low::date AND day < :high::date ORDER BY day;


-- name: record(tenant_id, run_id)
-- Returns the record of a request. Index: primary key of app_request.
SELECT * FROM app_request WHERE tenant_id = :tenant_id AND run_id = :run_id;


-- name: requests_of_user(tenant_id, app, user_id, low, high, below, limit)
-- Returns the newest requests of a user in a range of days, older than a run. Index: app_request_user.
SELECT * FROM app_request
WHERE tenant_id = :tenant_id AND app = :app AND user_id = :user_id AND run_id < :below::uuid AND day >= :low::date
  AND day < :high::date AND run_id >= uuid_floor((:low::date - 2)::timestamp AT TIME ZONE 'UTC')
  AND run_id < uuid_floor((:high::date + 2)::timestamp AT TIME ZONE 'UTC')
ORDER BY run_id DESC LIMIT :limit::int;


-- name: requests_of_all(tenant_id, app, low, high, below, limit)
-- Returns the same, of all users. Index: app_request_app.
SELECT * FROM app_request
WHERE tenant_id = :tenant_id AND app = :app AND run_id < :below::uuid AND day >= :low::date
  AND day < :high::date AND run_id >= uuid_floor((:low::date - 2)::timestamp AT TIME ZONE 'UTC')
  AND run_id < uuid_floor((:high::date + 2)::timestamp AT TIME ZONE 'UTC')
ORDER BY run_id DESC LIMIT :limit::int;


-- name: outcomes(tenant_id, run_ids, max_bytes)
-- Returns the states of runs now, and their results up to max_bytes each; too_large: the result is larger. Indexes: primary keys.
SELECT v.id AS run_id, v.status, v.error_message, octet_length(v.result::text) > :max_bytes::int AS too_large,
       CASE WHEN octet_length(v.result::text) <= :max_bytes::int THEN v.result END AS result
FROM unnest(:run_ids::uuid[]) AS w(id)
CROSS JOIN LATERAL (SELECT * FROM jobs WHERE tenant_id = :tenant_id AND id = w.id OFFSET 0) v;
