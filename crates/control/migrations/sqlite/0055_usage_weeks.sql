-- Sums of weeks (of grains 1 to 4; a week begins on Thursday, as time did in 1970), and in `usage_minutes` those of quarters
-- of an hour (of grains 1 and 2).
CREATE TABLE usage_weeks (
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    grain           INTEGER NOT NULL,
    start           INTEGER NOT NULL,
    series          INTEGER NOT NULL,
    egress_bytes    INTEGER NOT NULL,
    egress_packets  INTEGER NOT NULL,
    ingress_bytes   INTEGER NOT NULL,
    ingress_packets INTEGER NOT NULL,
    live_ms         INTEGER NOT NULL,
    sessions        INTEGER NOT NULL,
    PRIMARY KEY (account_id, grain, start, series)
) STRICT, WITHOUT ROWID;

-- What was summed up before is not in them, nor what nodes of the version before sum up during the next day.
INSERT INTO usage_kept (span, since)
    SELECT 604800, CASE WHEN EXISTS (SELECT 1 FROM usage_series) OR EXISTS (SELECT 1 FROM nodes)
        THEN (unixepoch() + 86400) / 604800 * 604800 + 604800
        ELSE 0 END;
INSERT INTO usage_kept (span, since)
    SELECT 900, CASE WHEN EXISTS (SELECT 1 FROM usage_series) OR EXISTS (SELECT 1 FROM nodes)
        THEN (unixepoch() + 86400) / 3600 * 3600
        ELSE 0 END;
