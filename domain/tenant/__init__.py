"""The aggregate Tenant: who may do what, and how much. Seeded; administered later."""
