"""The content keys of a process, on its connection."""

from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.content_keys import JetStreamContentKeys
from agentos.infra.node.paths import NodePaths
from agentos.infra.privacy.keyring import Keyring
from agentos.infra.privacy.node_key import wrapping_of
from agentos.infra.settings import Settings


def content_keys(settings: Settings, connection: Connection) -> Keyring:
    """Return the keyring; the node's own key is made if it has none."""
    wrapping = wrapping_of(settings.content_key, NodePaths(settings.data_dir).content_key)
    return Keyring(JetStreamContentKeys(connection), wrapping)
