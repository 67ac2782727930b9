"""Models behind `ModelPort`: the builtin ones, and any server that speaks OpenAI's format."""
