"""What was made is kept, and no more of it than is allowed."""

from __future__ import annotations

import threading
import weakref

import pytest

from gendiff.kept import Kept


class Thing:
    """What a cache may hold on to."""


def test_what_was_made_is_not_made_again():
    kept, made = Kept[str, int](2), list[str]()

    def make(key):
        made.append(key)
        return len(made)

    assert [kept.of(key, lambda key=key: make(key)) for key in "aab"] == [1, 1, 2]
    assert made == ["a", "b"]
    assert ("a" in kept, "c" in kept, kept.get("c"), len(kept)) == (True, False, None, 2)


def test_the_one_that_was_asked_for_longest_ago_goes():
    kept = Kept[str, int](3)
    for number, key in enumerate("abc"):
        kept.keep(key, number)
    assert kept.get("a") == 0
    kept.of("b", lambda: pytest.fail("it was made again"))
    kept.keep("d", 3)
    assert [key in kept for key in "abcd"] == [True, True, False, True]
    kept.keep("a", 5)
    assert (kept.get("a"), len(kept)) == (5, 3)


def test_what_goes_is_let_go():
    kept, thing = Kept[int, Thing](2), Thing()
    seen = weakref.ref(kept.keep(0, thing))
    del thing
    kept.keep(1, Thing())
    assert seen() is not None
    kept.keep(2, Thing())
    assert seen() is None


def test_there_is_room_while_another_is_made():
    """What takes too much goes before: the old and the new are not there together, but the new may be as large as it is."""
    kept, held = Kept[str, list[int]](4, room=5, size=len), list[int]()

    def make(n):
        held.append(sum(len(kept.get(key) or []) for key in "abcd"))
        return [0] * n

    for key, n in (("a", 2), ("b", 3), ("c", 20), ("d", 1)):
        kept.of(key, lambda n=n: make(n))
    assert held == [0, 2, 5, 0]
    assert [key in kept for key in "abcd"] == [False, False, False, True]


def test_what_cannot_be_made_is_not_kept():
    kept = Kept[str, int](2)
    with pytest.raises(ZeroDivisionError):
        kept.of("a", lambda: 1 // 0)
    assert kept.of("a", lambda: 7) == 7


def test_threads_may_share_one():
    kept, wrong = Kept[int, int](3), list[int]()

    def work():
        wrong.extend(k for k in range(2000) if kept.of(k % 5, lambda k=k: k % 5) != k % 5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(kept) == 3
