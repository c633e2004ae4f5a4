-- Apps. A request of an app is a run of its flow, a job with the owner service "app/NAME".

-- The apps that workers have, by name and version. Workers renew seen_at. manifest is NULL (and version '') while an app has never
-- been valid there.
CREATE TABLE app (
    name         text NOT NULL,
    version      text NOT NULL,
    manifest     json,
    problems     json NOT NULL, -- what is wrong with the files of the app: file, key, detail
    published_at timestamptz NOT NULL,
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (name, version),
    CHECK ((manifest IS NULL) = (version = ''))
) WITH (fillfactor = 50);
