"""Why a node does not start: always with what to do next."""


class NodeError(Exception):
    """A check failed; the node does not start, or stops starting.

    `check` names it, `next_step` is a command or an action, `service` the process whose log
    tells more.
    """

    def __init__(self, check: str, message: str, next_step: str, service: str = "") -> None:
        super().__init__(message)
        self.check = check
        self.next_step = next_step
        self.service = service
