"""Data subjects' keys, and the node's own that wraps them."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentos.domain.errors import DependencyUnavailableError, SubjectErasedError
from agentos.infra.privacy.cipher import Cipher
from agentos.infra.privacy.keyring import Keyring
from agentos.infra.privacy.node_key import wrapping_of
from tests.infra.privacy.given import KEY, Process


async def test_two_who_make_a_key_at_once_have_the_same() -> None:
    here = Process()
    other = Process(store=here.store)
    await here.keys.make("tnt_a", KEY)
    await other.keys.make("tnt_a", KEY)
    box = await here.keys.seal("tnt_a", KEY, b"hello", "somewhere")
    assert await other.keys.unseal("tnt_a", KEY, box, "somewhere") == b"hello"
    with pytest.raises(ValueError, match="another"):
        await other.keys.unseal("tnt_a", KEY, box, "elsewhere")


async def test_a_destroyed_key_is_never_made_again() -> None:
    here = Process()
    other = Process(store=here.store)
    await here.keys.make("tnt_a", KEY)
    assert await here.keys.state("tnt_a", KEY) == "alive"
    assert await here.keys.destroy("tnt_a", KEY)
    assert not await here.keys.destroy("tnt_a", KEY)
    for process in (here, other):
        with pytest.raises(SubjectErasedError):
            await process.keys.make("tnt_a", KEY)
        assert await process.keys.state("tnt_a", KEY) == "destroyed"


async def test_a_key_that_never_was_can_be_destroyed_too() -> None:
    here = Process()
    assert await here.keys.state("tnt_a", KEY) == "none"
    assert not await here.keys.destroy("tnt_a", KEY)
    with pytest.raises(SubjectErasedError):
        await here.keys.make("tnt_a", KEY)


async def test_a_key_is_another_tenants_under_the_same_name() -> None:
    here = Process()
    await here.keys.make("tnt_a", KEY)
    with pytest.raises(DependencyUnavailableError):
        await here.keys.seal("tnt_b", KEY, b"hello", "somewhere")


async def test_another_nodes_key_opens_nothing_and_says_why() -> None:
    here = Process()
    await here.keys.make("tnt_a", KEY)
    stranger = Keyring(here.store, Cipher(b"another node's key"))
    with pytest.raises(DependencyUnavailableError, match="AGENTOS_CONTENT_KEY"):
        await stranger.cipher("tnt_a", KEY)


def test_the_nodes_key_is_made_once_for_all_processes_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "data" / "content_key"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: wrapping_of("", path).seal(b"x", b"y"), range(32)))
    assert len(set(found)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["content_key"]
    assert wrapping_of("given", path).seal(b"x", b"y") != found[0]
