"""Nodes that work together without trusting each other's word."""
