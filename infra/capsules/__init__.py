"""Capsules as files: written, signed, verified and read."""
