"""The aggregate Key: a credential of a tenant, shown once and kept as a hash."""
