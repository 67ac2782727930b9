"""The usage of a tenant's models: one event for each call, and nothing of what was said."""
