"""The aggregate Run: one execution of an agent, from `created` to its final event."""
