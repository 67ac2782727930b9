"""Telemetry: spans as OTLP over HTTP."""
