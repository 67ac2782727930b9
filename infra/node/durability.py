"""What a node says of its durability."""

from agentos.infra.settings import Settings


def durability_words(settings: Settings, verified: bool | None) -> str:
    """Return the durability as every start and `status` say it. `verified` None: not yet asked."""
    meaning = {
        "power": "power (fsync before acknowledgement)",
        "process": "process (survives the death of any process, not of the machine)",
    }[settings.durability]
    if settings.nats_url:
        return f"{meaning}, declared, not verified"
    return f"{meaning}, verified" if verified else meaning
