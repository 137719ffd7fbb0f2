-- What each node last said of itself. `seen` is the database's time and not the node's.
CREATE TABLE nodes (
    name  TEXT PRIMARY KEY NOT NULL,
    seen  INTEGER NOT NULL,
    about TEXT NOT NULL
) STRICT, WITHOUT ROWID;
