"""The aggregate Agent: a registered definition with versions."""
