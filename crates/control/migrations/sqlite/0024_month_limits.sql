-- What a TURN key may relay in a calendar month (UTC). `month` (202611 is November 2026) is the one that `told`, the
-- highest percentage that was told, and `reached`, when the limit was reached, are about; `reached` is NULL while it was
-- not. `notify_at` is a JSON array.
CREATE TABLE month_limits (
    turn_key  BLOB PRIMARY KEY REFERENCES turn_keys (uid) ON DELETE CASCADE,
    bytes     INTEGER NOT NULL,
    counts    TEXT NOT NULL CHECK (counts IN ('egress', 'total')),
    action    TEXT NOT NULL CHECK (action IN ('refuse', 'cut', 'notify')),
    notify_at TEXT NOT NULL,
    month     INTEGER NOT NULL,
    told      INTEGER NOT NULL,
    reached   INTEGER
) STRICT, WITHOUT ROWID;

-- What its monthly limit does to a key now: 'refuse' or 'cut'; NULL while it does nothing.
ALTER TABLE turn_keys ADD COLUMN stopped TEXT;
