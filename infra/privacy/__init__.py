"""Sealing content: the node's own key, data subjects' keys, and the log that seals and opens."""
