"""The models that a node knows, who may use them, and which of them answers a call."""
