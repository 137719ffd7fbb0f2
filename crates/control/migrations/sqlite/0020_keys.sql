-- A rolled key's former secret and until when it is good; since when a key is suspended, NULL where it is not.
ALTER TABLE turn_keys ADD COLUMN former_secret_hash BLOB;
ALTER TABLE turn_keys ADD COLUMN former_until INTEGER;
ALTER TABLE turn_keys ADD COLUMN suspended INTEGER;

CREATE INDEX turn_keys_by_former_secret ON turn_keys (former_secret_hash) WHERE former_secret_hash IS NOT NULL;

-- The denials again, with those that refuse many credentials: all that a key issued before a moment (`subject` is the
-- key), or those of one customIdentifier (`subject` names key and identifier). `before` is in seconds. `turn_key` is
-- NULL for revocations from before it was kept; `identifier` is the customIdentifier, for people.
CREATE TABLE all_denials (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL CHECK (kind IN ('credential', 'key', 'issued', 'identifier')),
    subject    BLOB NOT NULL CHECK (length(subject) = 16),
    turn_key   BLOB,
    identifier TEXT NOT NULL DEFAULT '',
    before     INTEGER,
    until      INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    UNIQUE (kind, subject)
) STRICT;

INSERT INTO all_denials (seq, kind, subject, until, created) SELECT seq, kind, subject, until, created FROM denials;

-- A number is never used twice, also where the newest rows were purged.
DELETE FROM sqlite_sequence WHERE name = 'all_denials';
INSERT INTO sqlite_sequence (name, seq) SELECT 'all_denials', seq FROM sqlite_sequence WHERE name = 'denials';

DROP TABLE denials;
ALTER TABLE all_denials RENAME TO denials;
CREATE INDEX denials_by_until ON denials (until);
CREATE INDEX denials_by_key ON denials (turn_key, seq);
