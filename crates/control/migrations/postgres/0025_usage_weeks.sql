-- As in SQLite, where it is explained.
CREATE TABLE usage_weeks (
    account_id      TEXT COLLATE "C" NOT NULL,
    grain           BIGINT NOT NULL,
    start           BIGINT NOT NULL,
    series          BIGINT NOT NULL,
    egress_bytes    BIGINT NOT NULL,
    egress_packets  BIGINT NOT NULL,
    ingress_bytes   BIGINT NOT NULL,
    ingress_packets BIGINT NOT NULL,
    live_ms         BIGINT NOT NULL,
    sessions        BIGINT NOT NULL,
    PRIMARY KEY (account_id, grain, start, series)
) PARTITION BY RANGE (start);

INSERT INTO usage_kept (span, since)
    SELECT 604800, CASE WHEN EXISTS (SELECT 1 FROM usage_series) OR EXISTS (SELECT 1 FROM nodes)
        THEN (EXTRACT(EPOCH FROM now())::bigint + 86400) / 604800 * 604800 + 604800 ELSE 0 END;
INSERT INTO usage_kept (span, since)
    SELECT 900, CASE WHEN EXISTS (SELECT 1 FROM usage_series) OR EXISTS (SELECT 1 FROM nodes)
        THEN (EXTRACT(EPOCH FROM now())::bigint + 86400) / 3600 * 3600 ELSE 0 END;
