"""What a database of an earlier version lacks, by that version. It is mended in the transaction
that makes the tables: a crash leaves the old database or the new one.
"""

# SQLite cannot make a table's rows lie by their key afterwards: it is made anew.
SQLITE = {
    "2": (
        "ALTER TABLE evaluations RENAME TO evaluations_2; DROP INDEX evaluations_by_device;",
        "INSERT INTO evaluations (task, version, metric, device, value, examples)"
        " SELECT task, version, metric, device, value, examples FROM evaluations_2;"
        " DROP TABLE evaluations_2;",
    )
}
"""Before the tables of this version are made, and after it."""

POSTGRES = {"2": "ALTER TABLE evaluations ADD COLUMN IF NOT EXISTS personal DOUBLE PRECISION;"}
"""Before the tables of this version are made. A coordinator of that version that still runs over
the database is not disturbed: it leaves the new column empty."""
