-- For SQLite as it stands. For PostgreSQL the driver writes BIGINT for INTEGER, DOUBLE PRECISION
-- for REAL, and leaves STRICT and WITHOUT ROWID out.

CREATE TABLE IF NOT EXISTS meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS nodes (        -- the processes over this store
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    seen REAL NOT NULL
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
    state TEXT,                           -- digest of the server optimiser's state
    created REAL NOT NULL,
    PRIMARY KEY (task, version)
) STRICT;

CREATE TABLE IF NOT EXISTS rounds (
    task TEXT NOT NULL REFERENCES tasks,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,             -- of the model it trains from
    phase TEXT NOT NULL CHECK (phase IN ('open', 'closing', 'closed', 'abandoned')),
    reason TEXT,
    places INTEGER NOT NULL,              -- how many devices are asked
    working INTEGER NOT NULL,             -- of these, at work now
    arrived INTEGER NOT NULL,             -- updates that count
    opened REAL NOT NULL,
    started REAL,                         -- the first assignment
    ended REAL,                           -- from here on nothing counts any more
    closer TEXT,                          -- the node that makes the model
    examples INTEGER NOT NULL,
    dropped INTEGER NOT NULL,             -- assignments that came to nothing
    PRIMARY KEY (task, number)
) STRICT;
CREATE INDEX IF NOT EXISTS rounds_open ON rounds (task) WHERE phase IN ('open', 'closing');

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
    round INTEGER NOT NULL,               -- in which it was given
    version INTEGER NOT NULL,             -- of the model it trains from
    device TEXT NOT NULL REFERENCES devices,
    seed INTEGER NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('working', 'accepted', 'refused', 'given_up', 'expired')),
    reason TEXT,
    detail TEXT,
    assigned REAL NOT NULL,
    ended REAL,
    late REAL,                            -- when its update came, though it could count no more
    counted INTEGER,                      -- the round in which its update counts
    node TEXT,                            -- which has summed it
    tag INTEGER,                          -- 31 bits of its id's hash: see coordinator.store.rounds
    length INTEGER,
    digest TEXT,
    examples INTEGER,
    steps INTEGER,
    loss REAL,
    FOREIGN KEY (task, round) REFERENCES rounds
) STRICT;
CREATE INDEX IF NOT EXISTS assignments_by_round ON assignments (task, round);
CREATE INDEX IF NOT EXISTS assignments_by_count ON assignments (task, counted)
    WHERE counted IS NOT NULL;
CREATE INDEX IF NOT EXISTS assignments_by_device ON assignments (device);
-- A device serves one task at a time.
CREATE UNIQUE INDEX IF NOT EXISTS assignments_at_work ON assignments (device)
    WHERE state = 'working';

CREATE TABLE IF NOT EXISTS standings (    -- what is known of a device in a task
    device TEXT NOT NULL REFERENCES devices,
    task TEXT NOT NULL REFERENCES tasks,
    round INTEGER NOT NULL,               -- the last in which it had a place
    accepted INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    streak INTEGER NOT NULL,              -- failures in a row
    failed_at REAL,
    examples INTEGER,
    seconds REAL,                         -- from assignment to arrival, moving average
    PRIMARY KEY (device, task)
) STRICT;

CREATE TABLE IF NOT EXISTS partials (     -- sums of a closing round, on their way to its closer
    task TEXT NOT NULL,
    round INTEGER NOT NULL,
    node TEXT NOT NULL,
    tags INTEGER NOT NULL,                -- the sum of its updates' tags
    data BLOB NOT NULL,
    PRIMARY KEY (task, round, node)
) STRICT;

CREATE TABLE IF NOT EXISTS evaluations (  -- of a version, by one device: one row a metric
    task TEXT NOT NULL,
    version INTEGER NOT NULL,
    metric TEXT NOT NULL,
    device TEXT NOT NULL REFERENCES devices,
    value REAL NOT NULL,
    examples INTEGER NOT NULL,
    personal REAL,                        -- of the device's own version of the model, if it has one
    PRIMARY KEY (task, version, metric, device)
) STRICT, WITHOUT ROWID;                  -- a version's rows lie together: they are summed at once
CREATE INDEX IF NOT EXISTS evaluations_by_device ON evaluations (device);

CREATE TABLE IF NOT EXISTS spreads (      -- what devices said of a version whose rows are cleared
    task TEXT NOT NULL,
    version INTEGER NOT NULL,
    metric TEXT NOT NULL,
    devices INTEGER NOT NULL,
    examples INTEGER NOT NULL,
    mean REAL NOT NULL,                   -- weighted by examples
    deviation REAL NOT NULL,
    lowest REAL NOT NULL,
    highest REAL NOT NULL,
    lowest_decile REAL NOT NULL,          -- the mean over the tenth of devices with the lowest
    highest_decile REAL NOT NULL,
    tried INTEGER NOT NULL,               -- devices with a version of their own
    rising INTEGER NOT NULL,              -- of these, with a higher value by it
    falling INTEGER NOT NULL,
    median_change REAL,
    mean_change REAL,
    PRIMARY KEY (task, version, metric)
) STRICT;
