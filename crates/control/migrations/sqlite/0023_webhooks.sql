-- Where an account wants to be told of events; `sealed` is the secret, sealed by the keyring, `events` a JSON array,
-- empty for all.
CREATE TABLE webhooks (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    url        TEXT NOT NULL,
    events     TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    created    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX webhooks_by_account ON webhooks (account_id, created);

-- What is to be told, written with the change that it tells of. `due` is when it is tried next; NULL once it was given
-- up. What has arrived is deleted.
CREATE TABLE deliveries (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook  TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event    TEXT NOT NULL,
    body     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due      INTEGER,
    fault    TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX deliveries_by_due ON deliveries (webhook, due) WHERE due IS NOT NULL;
CREATE INDEX deliveries_by_webhook ON deliveries (webhook, seq);

-- The last session's end that webhooks are told of, by its place in `session_ends`. One row.
CREATE TABLE told_session_ends (
    seq INTEGER NOT NULL
) STRICT;

INSERT INTO told_session_ends (seq) SELECT COALESCE(MAX(seq), 0) FROM session_ends;
