"""What was made before is there again, and never more than is allowed."""

from __future__ import annotations

import pytest

from gendiff.kept import Kept


def test_it_is_made_once():
    kept, made = Kept[str, str](2), []
    for key in ("a", "a", "b", "a"):
        assert kept.of(key, lambda key=key: made.append(key) or key.upper()) == key.upper()
    assert made == ["a", "b"]
    assert "b" in kept
    assert kept.get("c") is None


def test_the_one_that_was_asked_for_longest_ago_goes():
    kept = Kept[str, int](2)
    for key in ("a", "b"):
        kept.keep(key, 1)
    assert kept.get("a") == 1
    kept.keep("c", 1)
    assert ("a" in kept, "b" in kept, "c" in kept, len(kept)) == (True, False, True, 2)


def test_there_is_room_before_another_is_made():
    """What is large is kept until then, whatever it takes."""
    kept = Kept[str, int](9, room=10, size=float)
    assert kept.of("large", lambda: 100) == 100
    assert len(kept) == 1
    kept.of("small", lambda: len(kept))
    assert kept.get("small") == 0
    assert "large" not in kept
    for key in ("b", "c"):
        kept.of(key, lambda: 4)
    assert len(kept) == 3


def test_what_cannot_be_made_leaves_nothing():
    kept = Kept[str, int](2)
    with pytest.raises(ZeroDivisionError):
        kept.of("a", lambda: 1 // 0)
    assert len(kept) == 0
