"""New ids: the domain's form, unique, in the order of their milliseconds."""

import time

from agentos.domain.ids import CROCKFORD, is_named_id, make_id
from agentos.infra.clock import SystemClock, SystemIds


def test_ids_have_the_domains_form_and_do_not_repeat() -> None:
    new_id = SystemIds()
    ids = [new_id("run") for _ in range(5000)]
    assert len(set(ids)) == 5000
    assert all(is_named_id(one, "run") and len(one) == 30 for one in ids)
    assert set("".join(one[4:] for one in ids)) == set(CROCKFORD)


def test_the_first_ten_characters_are_the_time() -> None:
    before = make_id("run", time.time_ns() // 1_000_000, 0)
    made = SystemIds()("run")
    after = make_id("run", time.time_ns() // 1_000_000, (1 << 80) - 1)
    assert before <= made <= after


def test_the_clock_counts_milliseconds() -> None:
    assert abs(SystemClock().now_ms() - time.time() * 1000) < 1000
