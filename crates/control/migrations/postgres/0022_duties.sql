-- What one node of many does for all, and until when it does: by the database's time. Nobody has to: it only spares the others.
CREATE TABLE duties (
    name   TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT NOT NULL,
    until  BIGINT NOT NULL
) WITH (fillfactor = 50);
