"""History: how a run went on otherwise than it began, and what of its configuration was edited since.

run.json holds the configuration as gendiff wrote it, and an entry for each step from which something was set otherwise. What a
step does follows from these and the seed, so two runs of one history are the same to the bit.

This module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gendiff import component
from gendiff.errors import shown
from gendiff.plain import finite

#: What says how far a run is to go, and changes no step of it.
LENGTH = "train.steps"


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables as one, by dotted keys."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def completed(table: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it was stored, with what nobody could say yet when it was: then there was one way."""
    table = dict(table)
    if isinstance(objective := table.get("objective"), Mapping):
        table["objective"] = {**objective, **({} if "basis" in objective else {"basis": "process"})}
    if "data" in table:
        table["data"] = component.completed("data", table["data"])
    if isinstance(held := table.get("hold_out"), Mapping) and "data" in held:
        table["hold_out"] = {**held, "data": component.completed("data", held["data"])}
    return table


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two configurations, by dotted key: the two values, None where there is none."""
    tables = [flat(_plain(table)) for table in (one, other)]
    keys = dict.fromkeys([*tables[0], *tables[1]])
    return {key: (a, b) for key in keys if (a := tables[0].get(key)) != (b := tables[1].get(key))}


def edits(info: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What somebody changed in config.toml since gendiff wrote it; empty for a run that did not record it."""
    if "config" not in info:
        return {}
    changes = differences(completed(info["config"]), table)
    return {} if changes and _never_written(info, changes) else changes


def settled(info: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without a change that was recorded just before the process was killed, and never made."""
    if "config" in info and _never_written(info, differences(completed(info["config"]), table)):
        return {**info, "changes": info["changes"][:-1], "config": dict(table)}
    return dict(info)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The record of a change of settings: ``set`` and ``before`` by dotted key, None for what is not there; empty for none."""
    values = {key: pair for key, pair in differences(before, after).items() if key != LENGTH}
    if not values:
        return {}
    return {
        "set": {key: new for key, (_, new) in values.items()},
        "before": {key: old for key, (old, _) in values.items()},
    }


def shortened(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[int]]:
    """The record of an end that is earlier than was planned: ``steps``, those and the new ones; empty for none."""
    lengths = [flat(table).get(LENGTH) for table in (before, after)]
    planned, now = lengths
    return {"steps": [planned, now]} if type(planned) is type(now) is int and now < planned else {}


def going_back(info: Mapping[str, Any], step: int) -> dict[str, Any]:
    """run.json of a run that goes on from ``step``, before some of its changes: they take effect from there."""
    changes = [{**change, "step": min(change["step"], step)} for change in info.get("changes", [])]
    return {**info, "changes": changes} if changes else dict(info)


def lines(info: Mapping[str, Any]) -> list[str]:
    """One line for each change, as a reader is told of it."""
    told = []
    for change in info.get("changes", []):
        before = change.get("before", {})
        parts = [f"{key} {said(before[key])} -> {said(value)}" if key in before else f"{key} = {said(value)}"
                 for key, value in change.get("set", {}).items()]  # fmt: skip
        if isinstance(steps := change.get("steps"), list) and len(steps) == 2:
            parts.append(f"it ends at step {steps[1]}, of {steps[0]} that were planned")
        if data := change.get("data"):
            parts.append(f"{data.get('left_out', 0)} of its pictures left out")
        told.append(f"from step {change['step']:,} on: {', '.join(parts) or 'nothing'}")
    return told


def said(value: Any) -> str:
    """A setting as a reader is told of it."""
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _never_written(info: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether these are the last recorded change, taken back: the process was killed between its two files."""
    last: Mapping[str, Any] = next(iter(info.get("changes", [])[-1:]), {})
    undone = {key: old for key, (_, old) in changes.items() if key != LENGTH}
    return bool(undone) and undone == last.get("before")


def _plain(table: Mapping[str, Any]) -> Any:
    """A table as JSON gives it back, whatever it came from."""
    return shown(json.loads(json.dumps(finite(table), default=str)))
