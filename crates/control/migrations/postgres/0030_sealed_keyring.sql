-- The deployment's keyring where the store has it, sealed with a key that the database never has: one row, or none.
-- `version` counts, and `changed` is the database's time.
CREATE TABLE sealed_keyring (
    one     BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    sealed  BYTEA NOT NULL
);

CREATE TRIGGER sealed_keyring_wake AFTER INSERT OR UPDATE ON sealed_keyring
    FOR EACH STATEMENT EXECUTE FUNCTION turnery_wake();
