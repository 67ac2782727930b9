"""Traces: the spans that the log tells of, sent to a collector."""
