-- Times are microseconds since 1970-01-01T00:00:00Z; ids are lower-case hex unless said otherwise.

CREATE TABLE accounts (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    created_on INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An API token is known by the SHA-256 of its text; the text itself is stored nowhere.
CREATE TABLE api_tokens (
    id          TEXT PRIMARY KEY,
    account_id  TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    token_hash  BLOB NOT NULL UNIQUE,
    permission  TEXT NOT NULL,
    created_on  INTEGER NOT NULL,
    expires_on  INTEGER,
    status      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX api_tokens_by_account ON api_tokens (account_id, created_on);

-- A TURN key; `uid` is its 16 bytes. The secret is stored as its SHA-256 only.
CREATE TABLE turn_keys (
    uid         BLOB PRIMARY KEY,
    account_id  TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    created     INTEGER NOT NULL,
    modified    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX turn_keys_by_account ON turn_keys (account_id, created);

-- What relays must refuse, in the order it was said. `seq` is never used twice, also after a purge, so a reader
-- that remembers the last one it saw misses nothing. `until` is in seconds: past it the refused thing has expired.
CREATE TABLE denials (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT NOT NULL CHECK (kind IN ('credential', 'key')),
    subject BLOB NOT NULL CHECK (length(subject) = 16),
    until   INTEGER NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (kind, subject)
) STRICT;

CREATE INDEX denials_by_until ON denials (until);
