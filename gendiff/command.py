r"""Command: what a user pastes into a shell to go on, whatever the files in it are called.

    gendiff --plugin mine.py sample 'my runs/a'

Every command that gendiff suggests is made here, of words, and every option that it tells to give: who called gendiff from
Python hears of keywords. A word that a shell would take apart or obey is quoted; one with
characters that a terminal would obey, such as a newline, is written out as ``$'a\nb'``; a path cannot be taken for an option.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_KEYWORDS = {"from": "from_", "resume": "gendiff.resume"}  # where Python has another word for an option

_options: list[str] = []
_words: list[str] = []


@contextmanager
def started(words: Sequence[str]) -> Iterator[None]:
    """Inside the block this program is one that was started as ``gendiff`` with these words."""
    _words[:] = words
    try:
        yield
    finally:
        _words.clear()
        _options.clear()


def words() -> list[str]:
    """The words that this program was started with, options of gendiff itself first."""
    return list(_words)


def kept() -> list[str]:
    """The options that are put into every command (`keep`)."""
    return list(_options)


def is_command() -> bool:
    """Whether this program was started as a command, and not by somebody's Python."""
    return bool(_words)


def is_repetition(line: str) -> bool:
    """Whether a command does nothing new after the one that this program was started with, which was just done, or failed.

    That is one which says no more, but for where and how its result is written.
    """
    try:
        said, done = (_counted(part) for part in (shlex.split(line), ["gendiff", *_words]))
    except ValueError:  # no shell takes it
        return False
    return bool(_words) and said <= done


def _counted(parts: Iterable[str]) -> Counter[str]:
    """Words by how often they are there, an option and its value as two, without --json, and --out with its value."""
    split = (part.split("=", 1) if re.match("--[a-z-]+=", part) else [part] for part in parts)
    counts, rest = Counter[str](), (word for words in split for word in words)
    for word in rest:
        if word == "--out":
            next(rest, "")
        elif word != "--json":
            counts[word] += 1
    return counts


def keep(options: Sequence[str]) -> None:
    """Put these options of gendiff itself, ``--plugin FILE`` and the like, into every command from now on."""
    _options[:] = options


def keep_also(option: str, value: str) -> None:
    """Put one more of them into every command from now on, where it is not there."""
    if value not in _options:
        _options.extend([option, value])


def command(*words: object, plugins: Iterable[object] = ()) -> str:
    """``gendiff`` with these words, and the options that this program was started with and that are needed to go on.

    Args:
        words: what they say; a `Path` that begins with a dash gets ``./`` before it.
        plugins: plugin files that are needed too.

    """
    more = [word for file in plugins if str(file) not in _options for word in ("--plugin", file)]
    return quoted("gendiff", *_options, *more, *words)


def again(*options: object) -> str:
    """The command that this program was started with, and these options of gendiff itself too."""
    return quoted("gendiff", *options, *_words) if _words else f"{quoted('gendiff', *options)} ..."


def option(name: str, value: object = None) -> str:
    """A setting as whoever started this program gives it: ``--batch 6`` in a command, ``batch=6`` in Python.

    Args:
        name: of the option, with its dashes; where it is negative, ``--no-ema``, it is ``ema=False`` in Python.
        value: what it is to be; a word in capitals stands for any. Left out, the option alone is named.

    """
    if _words:
        return name if value is None else quoted(name, value)
    keyword = name.removeprefix("--").replace("-", "_")
    if keyword.startswith("no_"):
        return f"{keyword.removeprefix('no_')}=False"
    keyword = _KEYWORDS.get(keyword, keyword)
    return keyword if value is None else f"{keyword}={_in_python(value)}"


def setting(key: str, value: object) -> str:
    """A setting that has no option of its own: ``--set train.keep=1`` in a command; in Python ``keep=1``.

    Those of other sections than ``train`` are entries of a table in Python: ``hold_out={"by": "picture"}``.
    """
    if _words:
        return quoted("--set", f"{key}={value}")
    section, _, name = key.partition(".")
    entry = _in_python(value)
    return f"{name}={entry}" if section == "train" else f'{section}={{..., "{name}": {entry}}}'


def _in_python(value: object) -> str:
    text = str(value)
    if text in ("true", "false"):
        return text.capitalize()
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text if re.fullmatch("[A-Z]+", text) else f'"{text}"'
    return text


def look_at(page: Path) -> str:
    """The command that shows a page in a browser."""
    return quoted("python", "-m", "webbrowser", page.absolute().as_uri())


def quoted(*words: object) -> str:
    """Words as a shell takes them."""
    return " ".join(map(_quoted, words))


def _quoted(word: object) -> str:
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_written_out, text))}'"


def _written_out(character: str) -> str:
    if character.isprintable() and character not in "\\'":
        return character
    if character in "\n\t":
        return {"\n": "\\n", "\t": "\\t"}[character]
    byte_of_a_name = "\udc80" <= character <= "\udcff"  # one that is no text
    code = character.encode(errors="surrogateescape" if byte_of_a_name else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in code)
