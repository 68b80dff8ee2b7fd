"""Draw the pictures of the data `emoji`, which are part of the package, from the font and the list of Unicode.

    python docs/draw_emoji.py NotoColorEmoji.ttf emoji-test.txt

Debian has them in its packages fonts-noto-color-emoji and unicode-data. What it writes is committed; this is how it was made.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PLACE = Path(__file__).parents[1] / "plugins" / "gendiff_plugins" / "data"
SIDE, COLUMNS = 64, 48
STRIKE = 109  # the one size that the font has, of 136x128 pixels
LINE = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified\s+# \S+ E[\d.]+ (.*)")


def listed(text: str) -> list[tuple[str, str, str]]:
    """Group, name and characters of every fully qualified emoji, those of a skin tone left out."""
    rows, group = [], ""
    for line in text.splitlines():
        group = line.removeprefix("# group: ") if line.startswith("# group: ") else group
        if (match := LINE.match(line)) and "skin tone" not in match[2]:
            rows.append((group, match[2], "".join(chr(int(code, 16)) for code in match[1].split())))
    return rows


def picture(characters: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One of them on white, its square filled up above and below."""
    square = Image.new("RGBA", (136, 136), "white")
    ImageDraw.Draw(square).text((0, 4), characters, font=font, embedded_color=True)
    return square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main(font_file: str, list_file: str) -> None:
    """Write emoji.webp, all pictures row by row, and emoji.json, what they are."""
    font = ImageFont.truetype(font_file, STRIKE)
    rows = listed(Path(list_file).read_text(encoding="utf-8"))
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(rows) // COLUMNS) * SIDE), "white")
    for k, (_, _, characters) in enumerate(rows):
        sheet.paste(picture(characters, font), (k % COLUMNS * SIDE, k // COLUMNS * SIDE))
    sheet.save(PLACE / "emoji.webp", lossless=True, quality=100, method=6)
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    table = {"groups": groups, "emoji": [[groups.index(group), name, characters] for group, name, characters in rows]}
    (PLACE / "emoji.json").write_text(json.dumps(table, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
