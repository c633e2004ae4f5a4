-- Statements about tables with a partition for each day. They apply to every tenant.


-- name: today()
-- Returns the current day by the database clock.
SELECT (clock() AT TIME ZONE 'UTC')::date;


-- name: ensure_day(day, tables)
-- Creates the partitions of one day where they are missing; false if its rows already lie in a default partition.
SELECT ensure_day(:day::date, :tables::text[]);


-- name: before(table, day)
-- Returns the partitions of days before this one.
SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(:table) AND c.relname ~ '_[0-9]{8}$' AND to_date(right(c.relname, 8), 'YYYYMMDD') < :day::date
ORDER BY 1;
