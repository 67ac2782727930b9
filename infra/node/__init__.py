"""One machine's node: the supervisor, the processes it keeps, and what it writes down."""
