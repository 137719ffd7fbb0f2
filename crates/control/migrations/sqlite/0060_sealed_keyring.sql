-- The deployment's keyring where the store has it, sealed with a key that the database never has: one row, or none.
-- `version` counts, and `changed` is when that was.
CREATE TABLE sealed_keyring (
    one     INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    version INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    sealed  BLOB NOT NULL
) STRICT;
