"""Peers over HTTP: their file, keys, certificates, and the client that calls them."""
