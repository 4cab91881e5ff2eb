"""The audit log: every decision, chained to the one before, on disk before the verdict leaves."""

from safewright.guard.audit.log import SqliteAudit, open_audit
from safewright.guard.audit.record import record_of

__all__ = ["SqliteAudit", "open_audit", "record_of"]
