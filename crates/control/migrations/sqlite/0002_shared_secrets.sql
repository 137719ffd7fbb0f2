-- What applications sign time-limited usernames with, sealed by the keyring; `id` is 16 bytes.
CREATE TABLE shared_secrets (
    id       BLOB PRIMARY KEY CHECK (length(id) = 16),
    turn_key BLOB NOT NULL REFERENCES turn_keys (uid) ON DELETE CASCADE,
    sealed   BLOB NOT NULL,
    created  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX shared_secrets_by_key ON shared_secrets (turn_key, created);

-- Which TURN keys have settings that relays must know, in the order in which they were changed last. `seq` is never
-- used twice, so a reader that remembers the last one it saw misses nothing. That a key is gone is a denial.
CREATE TABLE setting_changes (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    turn_key BLOB NOT NULL UNIQUE REFERENCES turn_keys (uid) ON DELETE CASCADE
) STRICT;

-- `GET /turn` names a key by its secret alone.
CREATE INDEX turn_keys_by_secret ON turn_keys (secret_hash);
