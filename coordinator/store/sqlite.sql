-- What the SQLite driver needs for itself, besides schema.sql.

CREATE TABLE IF NOT EXISTS payloads (     -- where the bytes of kept updates lie
    assignment TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    round INTEGER NOT NULL,
    node TEXT NOT NULL,                   -- with task and round: the segment
    start INTEGER NOT NULL,
    length INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS payloads_by_segment ON payloads (task, round, node);

CREATE TABLE IF NOT EXISTS wipes (        -- bytes that are still to be overwritten
    segment TEXT NOT NULL,
    start INTEGER NOT NULL,
    length INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS driver (       -- one row
    id INTEGER PRIMARY KEY CHECK (id = 1),
    clock REAL NOT NULL,                  -- the time that was reached: it does not go back
    told INTEGER NOT NULL                 -- how often something was told
) STRICT;
INSERT INTO driver VALUES (1, 0.0, 0) ON CONFLICT DO NOTHING;
