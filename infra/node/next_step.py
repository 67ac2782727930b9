"""Commands in messages, made so that they can be pasted and reach the node they are about."""

import re
import shlex
from pathlib import Path

_NAMES = (
    "up|down|restart|redeploy|validate|status|logs|nuke|test-alert|doctor|init|config|token"
    "|tenants|keys|agents|run|events|audit|usage|replay|peers"
)
# A command goes on to the end of its text, or to what no command of ours has in it.
_COMMAND = re.compile(rf"(?<![\w/.-])agentos((?: (?:{_NAMES}))(?![\w-])[^`;),\n]*)")


def as_pasted(text: str, data: Path | None, program: str = "agentos") -> str:
    """Return the text with every command in it written with the program and the node's directory.

    `data` None: the command reaches the node without it. A command that names a directory
    itself keeps that one.
    """

    def written(found: re.Match[str]) -> str:
        rest = found[1].rstrip()
        named = data is None or "--data-dir" in rest
        where = "" if named else f" --data-dir {shlex.quote(str(data))}"
        return f"{program}{rest}{where}{found[1][len(rest) :]}"

    return _COMMAND.sub(written, text)
