"""What is wrong with a policy document, in words for the one who wrote it."""


class PolicyProblemError(ValueError):
    """A policy that cannot be gone by; `problem` says what, and what to do instead."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
