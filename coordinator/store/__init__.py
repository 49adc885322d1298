"""What the coordinator remembers: one SQLite file, content-addressed blobs, a spool of uploads."""
