CREATE TABLE IF NOT EXISTS meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('running', 'stopped', 'done')),
    definition TEXT NOT NULL,             -- the task file, as TOML
    plan TEXT NOT NULL,                   -- digest of the manifest
    created REAL NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS models (
    task TEXT NOT NULL REFERENCES tasks,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    created REAL NOT NULL,
    PRIMARY KEY (task, version)
) STRICT;

CREATE TABLE IF NOT EXISTS rounds (
    task TEXT NOT NULL REFERENCES tasks,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,             -- of the model it trains from
    phase TEXT NOT NULL DEFAULT 'open' CHECK (phase IN ('open', 'closed', 'abandoned')),
    reason TEXT,
    opened REAL NOT NULL,
    started REAL,                         -- the first assignment, on the wall clock
    ended REAL,
    updates INTEGER NOT NULL DEFAULT 0,
    examples INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task, number)
) STRICT;

CREATE TABLE IF NOT EXISTS devices (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    secret TEXT NOT NULL,                 -- hashed
    labels TEXT NOT NULL,                 -- JSON
    facts TEXT NOT NULL,                  -- JSON
    enrolled REAL NOT NULL,
    seen REAL NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY,
    secret TEXT NOT NULL,                 -- hashed
    uses INTEGER NOT NULL,                -- left
    expires REAL NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS assignments (
    id TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    round INTEGER NOT NULL,
    device TEXT NOT NULL REFERENCES devices,
    seed INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'working'
        CHECK (state IN ('working', 'accepted', 'refused', 'given_up', 'expired')),
    reason TEXT,
    detail TEXT,
    assigned REAL NOT NULL,
    ended REAL,
    length INTEGER,                       -- of the announced upload
    digest TEXT,
    examples INTEGER,
    loss REAL,
    FOREIGN KEY (task, round) REFERENCES rounds
) STRICT;
CREATE INDEX IF NOT EXISTS assignments_by_round ON assignments (task, round);
CREATE INDEX IF NOT EXISTS assignments_by_device ON assignments (device);

CREATE TABLE IF NOT EXISTS evaluations (
    task TEXT NOT NULL,
    version INTEGER NOT NULL,
    device TEXT NOT NULL REFERENCES devices,
    examples INTEGER NOT NULL,
    metrics TEXT NOT NULL,                -- JSON
    PRIMARY KEY (task, version, device)
) STRICT;
