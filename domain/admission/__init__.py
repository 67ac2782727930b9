"""The aggregate Admission: who holds a slot, and how fast new ones are given, per tenant."""
