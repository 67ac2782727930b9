"""What of the log may go, when, and what stands in the log of what went."""
