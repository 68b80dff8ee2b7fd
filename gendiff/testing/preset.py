"""What a preset promises: a configuration that can be used as it is, and says what it is."""

from __future__ import annotations

from pathlib import Path

from gendiff.component import Component, component_class, parse_spec
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.testing.card import check, require


@check("preset", "it begins with a comment that says what it is", "the first line: `# DDPM on ...`")
def commented(path: Path) -> str:
    """`gendiff config show --presets` prints it."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    require(first.startswith("# ") and len(first) > 2, "a first line like '# what it is'", repr(first[:60]))
    return first.removeprefix("# ")


@check("preset", "it is a valid configuration", "names and ranges of its values: `gendiff config show --preset NAME`")
def valid(path: Path) -> str:
    """On top of the defaults."""
    base = Layer.from_file(path)
    layer, open_ = _completed(base)
    config = resolve([layer]).config
    again = resolve([Layer("its own TOML", config.table())]).config
    require(again == config, "the same configuration when it is written and read", "another")
    return f"sets {', '.join(layer.table) or 'nothing'}" + (f"; leaves open {', '.join(open_)}" if open_ else "")


def _completed(layer: Layer) -> tuple[Layer, list[str]]:
    """The layer with a stand-in for each parameter that its user has to give, such as the path of a folder; and their names."""
    table, open_ = dict(layer.table), []
    for key, value in layer.table.items():
        info = Config.model_fields.get(key)
        interface = info.annotation if info else None
        if not isinstance(interface, type) or not issubclass(interface, Component) or not isinstance(value, str | dict):
            continue
        spec = parse_spec(value) if isinstance(value, str) else dict(value)
        fields = component_class(interface.kind, spec["name"]).model_fields if "name" in spec else {}
        names = [name for name, field in fields.items() if field.is_required() and name not in spec]
        if names:
            table[key] = spec | dict.fromkeys(names, "to-be-given")
            open_ += [f"{key}.{name}" for name in names]
    return Layer(layer.origin, table), open_
