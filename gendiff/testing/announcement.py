"""Announcement: what a plugin says of a component before it is imported, beside what the class says of itself.

A `Lazy` repeats the first line of a docstring, so that lists cost no import; nothing else notices when one of the two changes.
"""

from __future__ import annotations

from gendiff.component import summary
from gendiff.plugin.registry import Entry, one_line
from gendiff.testing.card import Line


def announcement(entry: Entry) -> list[Line]:
    """Whether the summary in lists is that of the class, as a line of its card; none where the class itself was handed over."""
    if not isinstance(entry.target, str):
        return []
    announced, own = entry.summary.removesuffix("."), one_line(summary(entry.load()))
    title = "its summary in lists is the first line of its docstring"
    if announced == own:
        return [Line(title, True, "they are the same")]
    look = f'the summary in Lazy("{entry.kind}", "{entry.name}", ...), and the docstring of {entry.target}'
    return [Line(title, False, f"'{announced}' in lists", f"'{own}', as its docstring says", look)]
