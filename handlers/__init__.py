"""Command handlers, policies and the executor: whatever appends to the log."""
