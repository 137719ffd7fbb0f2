-- A sign-in to the dashboard. It is known by the SHA-256 of what the cookie holds, and goes with its API token.
CREATE TABLE sign_ins (
    secret_hash BLOB PRIMARY KEY CHECK (length(secret_hash) = 32),
    token_id    TEXT NOT NULL REFERENCES api_tokens (id) ON DELETE CASCADE,
    created     INTEGER NOT NULL,
    until       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sign_ins_by_token ON sign_ins (token_id, created);
CREATE INDEX sign_ins_by_until ON sign_ins (until);
