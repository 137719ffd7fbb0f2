-- What a request with an Idempotency-Key was answered, sealed by the keyring, for a day. `scope` is the API token's id;
-- both hashes are SHA-256: of the header, and of what was asked.
CREATE TABLE answers (
    scope        TEXT NOT NULL,
    key_hash     BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    sealed       BLOB NOT NULL,
    created      INTEGER NOT NULL,
    PRIMARY KEY (scope, key_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX answers_by_time ON answers (created);
