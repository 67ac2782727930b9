"""The aggregate AuditChain: what happened and who did it, each record bound to the one before."""
