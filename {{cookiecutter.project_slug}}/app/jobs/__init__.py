"""Work that outlives its request: queued in the caller's transaction, done at least once.

A job is a row. It is there if, and only if, the transaction that queued it was committed, and it goes when it
is done; so it survives a crash at any moment. A job that fails is tried again, later and later, and is kept with
its last error when that has happened too often.

Other packages take from here what they need, and nothing from further inside.
"""

from app.jobs.queue import Context, enqueue, enqueue_at, job

__all__ = ["Context", "enqueue", "enqueue_at", "job"]
