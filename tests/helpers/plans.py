"""Plans: small comparisons."""

from __future__ import annotations

from runs import settings

from gendiff.comparison.arm import parse_arms
from gendiff.comparison.plan import Contender, Plan
from gendiff.features import Features
from gendiff.run.layers import Layer

DATA = "gaussian-field:size=[4,8],channels=1"  # without an end: the reference is as small as the samples


TWO = ("identity", "dct schedule=log:f_max=0.6")


def shared(**changed) -> list[Layer]:
    table = settings(**{"data": DATA, "steps": 4, "batch": 8, "checkpoint_every": 2, **changed}).table()
    return [Layer("shared", table | {"sampler": "ancestral:steps=4"})]


def plan_of(*texts: str, below: list[Layer] | None = None, sampler: Layer | None = None, **changed) -> Plan:
    contenders = [
        Contender.of(arm, text, below or shared(), sampler) for arm, text in zip(parse_arms(texts), texts, strict=True)
    ]
    chosen = {"seeds": (0, 1), "features": (Features.model_validate("pixels"),), "n": 16, **changed}
    return Plan(tuple(contenders), **chosen)
