-- What each node last said of itself. `seen` is the database's time and not the node's. Rows are rewritten every few
-- seconds; with room left on each page the index is not.
CREATE TABLE nodes (
    name  TEXT COLLATE "C" PRIMARY KEY,
    seen  BIGINT NOT NULL,
    about TEXT NOT NULL
) WITH (fillfactor = 50);
