-- As in PostgreSQL, where nodes share what there is to do. Here is one, and no row.
CREATE TABLE duties (
    name   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
