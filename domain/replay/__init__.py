"""Replay: a recorded run's decisions made again, from its own log and nothing else."""
