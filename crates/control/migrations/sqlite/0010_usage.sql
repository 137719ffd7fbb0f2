-- Which account a TURN key's usage belongs to, also after the key is deleted.
CREATE TABLE key_owners (
    turn_key   BLOB PRIMARY KEY CHECK (length(turn_key) = 16),
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

INSERT INTO key_owners (turn_key, account_id) SELECT uid, account_id FROM turn_keys;

CREATE INDEX key_owners_by_account ON key_owners (account_id);

-- One row for each session: an allocation of a relay. The totals run from its beginning; of two reports the one with
-- the greater `sequence` holds. Times are microseconds; `client` is forgotten when the session ends.
CREATE TABLE turn_sessions (
    id                BLOB PRIMARY KEY CHECK (length(id) = 16),
    account_id        TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    turn_key          BLOB NOT NULL,
    credential        BLOB NOT NULL,
    username          TEXT NOT NULL,
    custom_identifier TEXT NOT NULL,
    node              TEXT NOT NULL,
    epoch             BLOB NOT NULL,
    series            INTEGER NOT NULL,
    transport         TEXT NOT NULL,
    client            TEXT,
    relayed           TEXT NOT NULL,
    relays_tcp        INTEGER NOT NULL,
    started           INTEGER NOT NULL,
    reported          INTEGER NOT NULL,
    expires           INTEGER NOT NULL,
    sequence          INTEGER NOT NULL,
    egress_bytes      INTEGER NOT NULL,
    egress_packets    INTEGER NOT NULL,
    ingress_bytes     INTEGER NOT NULL,
    ingress_packets   INTEGER NOT NULL,
    ended             INTEGER,
    end_reason        TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX turn_sessions_live ON turn_sessions (account_id, started) WHERE ended IS NULL;
CREATE INDEX turn_sessions_of_node ON turn_sessions (node, epoch) WHERE ended IS NULL;
CREATE INDEX turn_sessions_by_end ON turn_sessions (ended) WHERE ended IS NOT NULL;

-- Sessions in the order in which their end was recorded; `seq` is never used twice.
CREATE TABLE session_ends (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    session BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;

-- Everything that usage is told apart by but the time. `last_day` is the last day with usage, in seconds.
CREATE TABLE usage_series (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id        TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
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
    UNIQUE (turn_key, username, custom_identifier, transport, client_family, relay_family, node, city, code,
            country, region)
) STRICT;

CREATE INDEX usage_series_by_account ON usage_series (account_id);
CREATE INDEX usage_series_by_last_day ON usage_series (last_day);

-- What was relayed in `span` seconds (60, 3600 or 86400) from `start` on (seconds). Each byte is in one row: the
-- minutes of an hour become its row when they are old, and hours a day's.
CREATE TABLE usage_buckets (
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    start           INTEGER NOT NULL,
    series          INTEGER NOT NULL,
    span            INTEGER NOT NULL,
    egress_bytes    INTEGER NOT NULL,
    egress_packets  INTEGER NOT NULL,
    ingress_bytes   INTEGER NOT NULL,
    ingress_packets INTEGER NOT NULL,
    live_ms         INTEGER NOT NULL,
    sessions        INTEGER NOT NULL,
    PRIMARY KEY (account_id, start, series, span)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_buckets_by_span ON usage_buckets (span, start);

-- The same by TURN key and calendar month (UTC; 202611 is November 2026), for limits that must be looked at often.
CREATE TABLE usage_months (
    turn_key        BLOB NOT NULL,
    month           INTEGER NOT NULL,
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    egress_bytes    INTEGER NOT NULL,
    egress_packets  INTEGER NOT NULL,
    ingress_bytes   INTEGER NOT NULL,
    ingress_packets INTEGER NOT NULL,
    PRIMARY KEY (turn_key, month)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_months_by_account ON usage_months (account_id);

-- Sessions that relays are to end, in the order in which it was said; kept for some minutes. `subject` is the id of a
-- session or credential, or a customIdentifier in UTF-8, and empty for all of a key.
CREATE TABLE session_orders (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind     TEXT NOT NULL CHECK (kind IN ('session', 'credential', 'key', 'custom_identifier')),
    turn_key BLOB NOT NULL CHECK (length(turn_key) = 16),
    subject  BLOB NOT NULL,
    created  INTEGER NOT NULL
) STRICT;
