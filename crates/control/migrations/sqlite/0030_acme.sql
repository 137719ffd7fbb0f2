-- Accounts with ACME authorities, one for each directory; `sealed` is the account with its private key.
CREATE TABLE acme_accounts (
    directory TEXT PRIMARY KEY,
    contact   TEXT NOT NULL,
    sealed    BLOB NOT NULL,
    created   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Certificates from there, one for each set of names, which are sorted and separated by commas. Times are Unix seconds.
-- `version` grows with each one obtained. Whoever has the claim obtains the next, and nobody else while it lasts.
CREATE TABLE acme_certificates (
    directory     TEXT NOT NULL,
    names         TEXT NOT NULL,
    version       INTEGER NOT NULL DEFAULT 0,
    chain         TEXT,
    sealed_key    BLOB,
    not_after     INTEGER,
    renew_at      INTEGER NOT NULL DEFAULT 0,
    ask_at        INTEGER NOT NULL DEFAULT 0,
    claimant      TEXT,
    claimed_until INTEGER NOT NULL DEFAULT 0,
    failures      INTEGER NOT NULL DEFAULT 0,
    last_error    TEXT,
    tried         INTEGER NOT NULL DEFAULT 0,
    next_try      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (directory, names)
) STRICT, WITHOUT ROWID;

-- What authorities are answered with while they look who answers at a name, for every node that they may come to.
CREATE TABLE acme_challenges (
    kind     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    answer   BLOB NOT NULL,
    claimant TEXT NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;
