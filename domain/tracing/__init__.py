"""Traces: which span an event belongs to, and the spans that the log tells of."""
