-- Who changed what, written with the change. Nothing here refers to another table: it outlives what it is about.
CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    account_id TEXT,
    actor      TEXT NOT NULL,
    actor_id   TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    address    TEXT,
    request_id TEXT,
    action     TEXT NOT NULL,
    target     TEXT NOT NULL,
    result     TEXT NOT NULL,
    details    TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_account ON audit (account_id, seq);
CREATE INDEX audit_by_time ON audit (at);
