-- What usage is asked for by: everything of a series but some of what it is told apart by, which is empty here. `grain`
-- says what is left:
--   1  key, customIdentifier, username
--   2  key, customIdentifier
--   3  key, transport, address families, node and its location
--   4  node and its location
CREATE TABLE usage_groups (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id        TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    grain             INTEGER NOT NULL,
    turn_key          BLOB NOT NULL,
    username          TEXT NOT NULL,
    custom_identifier TEXT NOT NULL,
    transport         TEXT NOT NULL,
    client_family     TEXT NOT NULL,
    relay_family      TEXT NOT NULL,
    node              TEXT NOT NULL,
    city              TEXT NOT NULL,
    code              TEXT NOT NULL,
    country           TEXT NOT NULL,
    region            TEXT NOT NULL,
    last_day          INTEGER NOT NULL,
    UNIQUE (account_id, grain, turn_key, username, custom_identifier, transport, client_family, relay_family, node,
            city, code, country, region)
) STRICT;

CREATE INDEX usage_groups_by_last_day ON usage_groups (last_day);

-- The group of each grain that a series is in.
CREATE TABLE usage_grouped (
    series  INTEGER PRIMARY KEY REFERENCES usage_series (id) ON DELETE CASCADE,
    grain_1 INTEGER NOT NULL,
    grain_2 INTEGER NOT NULL,
    grain_3 INTEGER NOT NULL,
    grain_4 INTEGER NOT NULL
) STRICT;

-- Relays add to `usage_buckets`, where a byte stays for some minutes. From there it is moved, in one transaction, into each
-- of these tables: summed up in minutes (grains 0 and 4; in five minutes grain 3), in hours and in days (all grains). At
-- grain 0 `series` is one of `usage_series`, at others one of `usage_groups`. So each of them, with what is in
-- `usage_buckets`, tells of each byte once.
CREATE TABLE usage_minutes (
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    grain           INTEGER NOT NULL,
    start           INTEGER NOT NULL,
    series          INTEGER NOT NULL,
    egress_bytes    INTEGER NOT NULL,
    egress_packets  INTEGER NOT NULL,
    ingress_bytes   INTEGER NOT NULL,
    ingress_packets INTEGER NOT NULL,
    live_ms         INTEGER NOT NULL,
    sessions        INTEGER NOT NULL,
    PRIMARY KEY (account_id, grain, start, series)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_hours (
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    grain           INTEGER NOT NULL,
    start           INTEGER NOT NULL,
    series          INTEGER NOT NULL,
    egress_bytes    INTEGER NOT NULL,
    egress_packets  INTEGER NOT NULL,
    ingress_bytes   INTEGER NOT NULL,
    ingress_packets INTEGER NOT NULL,
    live_ms         INTEGER NOT NULL,
    sessions        INTEGER NOT NULL,
    PRIMARY KEY (account_id, grain, start, series)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_days (
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    grain           INTEGER NOT NULL,
    start           INTEGER NOT NULL,
    series          INTEGER NOT NULL,
    egress_bytes    INTEGER NOT NULL,
    egress_packets  INTEGER NOT NULL,
    ingress_bytes   INTEGER NOT NULL,
    ingress_packets INTEGER NOT NULL,
    live_ms         INTEGER NOT NULL,
    sessions        INTEGER NOT NULL,
    PRIMARY KEY (account_id, grain, start, series)
) STRICT, WITHOUT ROWID;

-- From when on usage is known by spans of this length: what is older is in the tables of longer ones.
CREATE TABLE usage_kept (
    span  INTEGER PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;

-- What has become hours or days before.
INSERT INTO usage_kept (span, since)
    SELECT 60, COALESCE(MAX(start) + 3600, 0) FROM usage_buckets WHERE span = 3600;
INSERT INTO usage_kept (span, since)
    SELECT 3600, COALESCE(MAX(start) + 86400, 0) FROM usage_buckets WHERE span = 86400;
INSERT INTO usage_kept (span, since) VALUES (86400, 0);
-- Until which day `last_day` of groups is noted.
INSERT INTO usage_kept (span, since) VALUES (0, 0);
