"""The decisions of AgentOS: pure, deterministic, free of I/O, clocks and randomness."""
