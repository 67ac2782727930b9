"""Two real brokers, linked as leaf nodes: what is given is taken once, and nothing else is seen."""

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agentos.domain.federation.link import Given, Taken
from agentos.domain.subjects import StreamRef
from agentos.infra import nats_links
from agentos.infra.jetstream import api
from agentos.infra.jetstream.accounts import ReloadedAccounts
from agentos.infra.jetstream.connection import NoRespondersError, bounded_close, connect
from agentos.infra.jetstream.links import JetStreamTaken, url_of
from agentos.infra.jetstream.pull import Delivered
from agentos.infra.jetstream.streams import provision
from agentos.infra.nats_links import Link, Links, giver, leaf, read_links, taker, write_links
from agentos.infra.nats_server import configure_nats, find_nats_binary
from tests.infra.jetstream.linked import SECRET, Linked, files_of, linked


def given(position: int, run: str = "run_1", tenant: str = "tnt_a") -> Given:
    return Given(StreamRef(tenant, "run", run), position, position, b'{"event":{}}\n{"event":{}}')


async def live(inbox: JetStreamTaken, within: float = 30.0) -> None:
    """Wait until the link brings what is given."""
    async with asyncio.timeout(within):
        while why := await inbox.why_down():
            assert isinstance(why, str)
            await asyncio.sleep(0.1)


async def take(inbox: JetStreamTaken, count: int, within: float = 30.0) -> list[Taken]:
    """Take so many commits, and strike them off."""
    found: list[Taken] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            for piece in await inbox.take():
                inbox.done(piece.token)
                found.append(piece)
    return found


async def nothing_more(inbox: JetStreamTaken) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await inbox.take()


async def test_given_is_taken_once_across_cuts_and_the_death_of_a_broker() -> None:
    async with linked() as both:
        outbox, inbox = both.given(), both.taken()
        try:
            assert await outbox.position() is None
            await live(inbox)
            await outbox.put([given(7), given(8)])
            await outbox.put([given(8), given(9)])  # repeated: kept once
            assert await outbox.position() == 9
            assert [t.first_sequence for t in await take(inbox, 3)] == [7, 8, 9]
            both.proxy.cut()
            async with asyncio.timeout(20):
                while not (why := await inbox.why_down()):  # noqa: ASYNC110 - the broker tells
                    await asyncio.sleep(0.1)
            assert "does not answer" in why
            await outbox.put([given(10)])
            both.proxy.heal()
            await live(inbox)
            assert [t.first_sequence for t in await take(inbox, 1)] == [10]
            both.b.kill()
            both.b.start()
            assert await outbox.position() == 10
            await outbox.put([given(11), given(12)])
            await live(inbox)
            found = await take(inbox, 2)
            assert [t.first_sequence for t in found] == [11, 12]
            assert found[0].ref == StreamRef("tnt_a", "run", "run_1")
            assert found[0].lines == (b'{"event":{}}', b'{"event":{}}')
            both.a.kill()
            both.a.start()
            await outbox.put([given(13)])
            await live(inbox)
            # a broker that is killed may forget the last second of what was struck off
            last: list[int] = []
            while last[-1:] != [13]:
                last += [t.first_sequence for t in await take(inbox, 1)]
            assert last in ([13], [12, 13], [11, 12, 13])
            await nothing_more(inbox)
        finally:
            await outbox.close()
            await inbox.close()


async def test_a_leaf_goes_where_its_file_says_and_nowhere_else() -> None:
    async with linked() as both:
        outbox, inbox = both.given(), both.taken()
        try:
            assert await outbox.position() is None
            await live(inbox)
            both.proxy.cut()
            until = both.proxy.accepted + 4  # tries of the leaf; the other broker itself is up
            async with asyncio.timeout(30):
                while both.proxy.accepted < until or not await inbox.why_down():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            await outbox.close()
            await inbox.close()


async def test_what_is_not_struck_off_comes_to_the_next_process() -> None:
    async with linked() as both:
        outbox, first = both.given(), both.taken()
        assert await outbox.position() is None
        await live(first)
        await outbox.put([given(1)])
        (piece,) = await first.take()
        await first.close()
        second = both.taken()
        try:
            (again,) = await take(second, 1)
            assert again[:3] == piece[:3]
        finally:
            await second.close()
            await outbox.close()


async def test_a_leaf_sees_what_it_was_given_and_nothing_else() -> None:
    async with linked() as both:
        outbox, other, inbox = both.given(), both.given("stk_x"), both.taken()
        (link,) = both.a_links.links
        try:
            assert await outbox.position() is None
            await live(inbox)
            await other.put([given(1, "run_of_x")])
            await outbox.put([given(2)])
            assert [t.ref.aggregate_id for t in await take(inbox, 1)] == ["run_1"]
            await nothing_more(inbox)
            behind = await connect(url_of(both.a.url, taker(link, "stk_a")), "test")
            hub = f"{nats_links.api_of('stk_b')}.API"
            for call in (
                "STREAM.DELETE.EVENTS",
                "STREAM.PURGE.EVENTS",
                "STREAM.UPDATE.EVENTS",
                "STREAM.CREATE.OTHER",
                "STREAM.MSG.DELETE.EVENTS",
                "STREAM.INFO.LOG_0",
                "STREAM.NAMES",
                "DIRECT.GET.LOG_0",
            ):
                with pytest.raises((NoRespondersError, TimeoutError)):
                    await behind.ask(f"{hub}.{call}", b"{}", timeout=1)
            for subject in ("events.tnt_a.run_1", "log.0.tnt_a.run.run_1", "cmd.run.create"):
                with pytest.raises((NoRespondersError, TimeoutError)):
                    await behind.ask(subject, b"{}", timeout=1)
            names = await api.call(behind, "STREAM.NAMES")
            assert names["streams"] == ["EVENTS"]  # its own broker's, in that account
            await bounded_close(behind)
            assert await outbox.position() == 2
        finally:
            for end in (outbox, other, inbox):
                await end.close()


async def test_over_tls_both_show_the_nodes_certificates(tmp_path: Path) -> None:
    async with linked(tmp_path / "ours") as both:
        outbox, inbox = both.given(), both.taken()
        try:
            assert await outbox.position() is None
            await live(inbox)
            await outbox.put([given(1)])
            assert len(await take(inbox, 1)) == 1
            # a broker with a certificate of another authority does not get in
            others = files_of(tmp_path / "others", "stk_a")
            both.a.stop()
            wrong = replace(both.a_links, tls=others)
            configure_nats(both.a.server.home, sync_always=False, links=wrong)
            both.a.start()
            async with asyncio.timeout(20):
                while "does not answer" not in await inbox.why_down():  # noqa: ASYNC110 - it tells
                    await asyncio.sleep(0.1)
        finally:
            await outbox.close()
            await inbox.close()


async def test_a_stream_of_another_version_or_that_is_gone_is_set_right() -> None:
    async with linked() as both:
        outbox, inbox = both.given(), both.taken()
        try:
            assert await outbox.position() is None
            link = next(x for x in both.b_links.links if x.stack_id == "stk_a")
            feed = await connect(url_of(both.b.url, giver(link, "stk_b")), "test")
            older = nats_links.given_stream() | {"max_age": 7_000_000_000}
            await api.call(feed, "STREAM.UPDATE.EVENTS", older)
            await outbox.close()
            assert await outbox.position() is None
            info = await api.call(feed, "STREAM.INFO.EVENTS")
            assert info["config"]["max_age"] == nats_links.given_stream()["max_age"]
            await bounded_close(feed)
            await live(inbox)
            (mine,) = both.a_links.links
            behind = await connect(url_of(both.a.url, taker(mine, "stk_a")), "test")
            await api.call(behind, "STREAM.DELETE.EVENTS")
            await bounded_close(behind)
            assert "says nothing of the stream" in await inbox.why_down()
            await live(inbox)
            await outbox.put([given(1)])
            assert len(await take(inbox, 1)) == 1
        finally:
            await outbox.close()
            await inbox.close()


async def test_a_tenants_subscribers_come_and_go_beside_a_link() -> None:
    """The accounts of tenants are reloaded; the links stay, in the file and on the server."""
    async with linked() as both:
        outbox, inbox = both.given(), both.taken()
        try:
            assert await outbox.position() is None
            await live(inbox)
            await provision(both.b.url, durability="process", expect_log=False)
            accounts = ReloadedAccounts(both.b.server)
            for users in ({"tnt_a": {"sub_1": "$2a$04$" + "x" * 53}}, {}):
                async with accounts.lock():
                    await accounts.apply(users)
            await outbox.put([given(1)])
            assert len(await take(inbox, 1)) == 1
            assert "TO_stk_a" in both.b.server.config_file.read_text()
        finally:
            await outbox.close()
            await inbox.close()


@pytest.mark.parametrize("who", ["leaf", "wrong"])
async def test_the_leafs_credentials_open_no_client_connection(who: str) -> None:
    async with linked() as both:
        user = leaf(SECRET if who == "leaf" else SECRET[::-1], "stk_a", "stk_b")
        with pytest.raises(Exception, match="cannot be reached"):
            await connect(url_of(both.b.url, user), "test", timeout=2)


async def test_a_peer_with_another_secret_gets_nothing() -> None:
    async with linked() as both:
        wrong = Links(
            "stk_a", None, None, (Link("stk_b", "x" * 40, both.a_links.links[0].leaf_url),)
        )
        both.a.stop()
        configure_nats(both.a.server.home, sync_always=False, links=wrong)
        both.a.start()
        outbox = both.given()
        inbox = Linked(both.a, both.b, both.proxy, wrong, both.b_links).taken()
        try:
            await outbox.put([given(1)])
            assert "does not answer" in await inbox.why_down()
            await nothing_more(inbox)
        finally:
            await outbox.close()
            await inbox.close()


def test_links_are_written_down_privately_and_kept(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("h") / "nats"
    links = Links(
        "stk_a",
        "127.0.0.1:7422",
        ("/c/ca.pem", "/c/a.pem", "/c/a.key"),
        (Link("stk_b", SECRET, "tls://b.example:7422", gives=True),),
    )
    server = configure_nats(home, sync_always=False, links=links)
    assert read_links(home) == links
    assert (home / nats_links.FILE).stat().st_mode & 0o077 == 0
    text = server.config_file.read_text()
    assert SECRET not in text
    assert '"verify": true' in text
    configure_nats(home, sync_always=False)
    assert server.config_file.read_text() == text
    configure_nats(home, sync_always=False, links=Links("stk_a"))
    assert "leafnodes" not in server.config_file.read_text()
    assert "domain" not in server.config_file.read_text()


def test_the_server_takes_a_link_in_both_directions(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("h") / "nats"
    link = Link("stk_b", SECRET, "nats://127.0.0.1:7422", gives=True)
    server = configure_nats(
        home, sync_always=False, links=Links("stk_a", "127.0.0.1:7423", None, (link,))
    )
    command = [str(find_nats_binary()), "-t", "-c", str(server.config_file)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr
    text = server.config_file.read_text()
    assert giver(link, "stk_a")[1] in text
    assert len({giver(link, "stk_a")[1], taker(link, "stk_a")[1], leaf(SECRET, "a", "b")[1]}) == 3


def test_a_file_of_links_that_is_gone_is_no_link(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h")
    assert read_links(home) == Links("")
    write_links(home, Links("stk_a"))
    assert json.loads((home / nats_links.FILE).read_text())["links"] == []


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        (b"events.tnt_a.\xff", b"NATS/1.0\r\nAgentos-First: 1\r\n\r\n"),
        (b"events.tnt_a.run_1", b"NATS/1.0\r\nAgentos-First: \xff\r\n\r\n"),
        (b"events.tnt_a.run_1", b"NATS/1.0\r\n\xff\r\n\r\n"),
        (b"events.tnt_a", b""),
    ],
)
def test_what_a_brokers_peer_puts_there_is_struck_off(subject: bytes, headers: bytes) -> None:
    inbox = JetStreamTaken("stk_b", "nats://127.0.0.1:1")
    assert inbox._read(Delivered(subject, b"reply", b"{}", headers)) is None
