"""NATS and JetStream behind the domain's ports: log, queue, command bus and signals."""
