"""The store over PostgreSQL: coordinator processes on several hosts share it.

  store        transactions, run until they come through or cannot
  connections  how ours are set up, lent and dropped
  session      one transaction: a generator's steps over one connection
  dialect      the shared SQL as PostgreSQL wants it
  schema       the tables, made once; what can be wrong with a database, in one line
  troubles     what an error means: try again, later, or never
  clock        the database's clock, known without asking
  listener     word from other processes
  leftovers    kept updates of closed rounds, deleted piece by piece
  blobs        blobs in the database with a local cache

The only package that imports asyncpg: without the `postgres` extra, the rest works.
"""

from coordinator.store.postgres.blobs import PostgresBlobs
from coordinator.store.postgres.limits import Limits
from coordinator.store.postgres.store import PostgresStore, open_postgres

__all__ = ["Limits", "PostgresBlobs", "PostgresStore", "open_postgres"]
