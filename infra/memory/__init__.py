"""The domain's ports in one process's memory: for fast tests and for nodes without a broker."""
