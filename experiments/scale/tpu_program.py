"""What only the text of a program for TPUs tells: memory off the chip, and cycles.

XLA's own count of bytes has those that stay on the chip in it, in the vector memory (VMEM). Where
an array lies is in its layout: ``f32[8,16]{1,0:T(8,128)S(1)}`` is in tiles of 8x128 in memory 1,
VMEM; without an ``S`` it is in the memory off the chip (HBM), and moved in whole tiles.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
"""Element, its bits, shape, axes from minor to major, and the rest of the layout."""
COMPUTATION = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
INSTRUCTION = re.compile(
    r"^  (?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*?)\)(.*)$", re.MULTILINE
)
OPERAND = re.compile(r"(?:%|^)([\w.-]+)")
CONDITION = re.compile(r"\bcondition=%([\w.-]+)")
CALLED = re.compile(r"\b(?:calls|body|to_apply)=%([\w.-]+)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
STILL = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "while", "call"),
}
"""Instructions that move nothing themselves."""
PARTS = {"gather", "dynamic-slice", "slice"}
"""Those that read no more of their first operand than they give."""


class Instruction(NamedTuple):
    """A line of a program."""

    name: str
    types: str
    """Of the result, with its layout."""
    kind: str
    operands: tuple[str, ...]
    """Names; of a parameter its number."""
    rest: str
    """Attributes."""


def computations(text: str) -> tuple[str, dict[str, list[Instruction]]]:
    """The name of the entry, and the instructions of each computation."""
    entry, found = "", {}
    for is_entry, name, body in COMPUTATION.findall(text):
        found[name] = [
            Instruction(own, types, kind, tuple(OPERAND.findall(operands)), rest)
            for own, types, kind, operands, rest in INSTRUCTION.findall(body)
        ]
        entry = name if is_entry else entry
    return entry, found


def off_chip(types: str) -> int:
    """Bytes of all arrays of a type that lie off the chip, in whole tiles.

    >>> off_chip("f32[8,16]{1,0:T(8,128)}"), off_chip("(f32[8,16]{1,0:T(8,128)S(1)}, u8[3])")
    (4096, 3)
    """
    return sum(
        _tiled_bytes(int(bits or 8), shape, axes, layout)
        for _, bits, shape, axes, layout in ARRAY.findall(types)
        if "S(" not in layout
    )


def _tiled_bytes(bits: int, shape: str, axes: str, layout: str) -> int:
    lengths = [int(length) for length in shape.split(",") if length]
    minor_first = [lengths[int(axis)] for axis in axes.split(",") if axis] or lengths[::-1]
    if tile := re.match(r"T\(([\d,]+)\)", layout):
        sides = [int(side) for side in tile[1].split(",")][::-1]
        minor_first += [1] * (len(sides) - len(minor_first))
        minor_first[: len(sides)] = [
            math.ceil(length / side) * side
            for length, side in zip(minor_first, sides, strict=False)
        ]
    return math.ceil(bits * math.prod(minor_first) / 8)


def off_chip_bytes(text: str) -> int:
    """Bytes that a program moves in and out of the memory off the chip.

    Args:
      text: scheduled HLO for TPUs, as ``compiled.as_text()`` gives it.
    """
    entry, all_of_them = computations(text)
    ran = _executed(entry, all_of_them)
    return sum(times * _moved(name, all_of_them) for name, times in ran)


def estimated_cycles(text: str) -> int:
    """Cycles of a chip by XLA's own estimates for its instructions.

    Args:
      text: scheduled HLO for TPUs, as ``compiled.as_text()`` gives it.
    """
    entry, all_of_them = computations(text)
    return sum(
        times * int(found[1])
        for name, times in _executed(entry, all_of_them)
        for one in all_of_them[name]
        if (found := CYCLES.search(one.rest))
    )


def _executed(
    name: str, all_of_them: dict[str, list[Instruction]], times: int = 1
) -> Iterator[tuple[str, int]]:
    """A computation and those that it runs, with how many times."""
    yield name, times
    for one in all_of_them[name]:
        if one.kind in ("while", "call", "conditional"):
            turns = times * (_turns(one, all_of_them) if one.kind == "while" else 1)
            for called in CALLED.findall(one.rest):
                yield from _executed(called, all_of_them, turns)


def _turns(loop: Instruction, all_of_them: dict[str, list[Instruction]]) -> int:
    """Of a loop that counts from 0 to the one constant of its condition; else 1 at least."""
    condition = all_of_them[CONDITION.findall(loop.rest)[0]]
    limits = [one for one in condition if one.kind == "constant" and one.types.startswith("s32[]")]
    return int(limits[0].operands[0]) if len(limits) == 1 else 1


def _moved(name: str, all_of_them: dict[str, list[Instruction]]) -> int:
    types = {one.name: one.types for one in all_of_them[name]}
    return sum(_moved_by(one, types, all_of_them) for one in all_of_them[name])


def _moved_by(
    one: Instruction, types: dict[str, str], all_of_them: dict[str, list[Instruction]]
) -> int:
    if one.kind in STILL or one.kind.endswith("-done") or "AllocateBuffer" in one.rest:
        return 0
    if one.kind == "copy-start":  # to an array, from an array
        return off_chip(one.types)
    read = [off_chip(types.get(operand, "")) for operand in one.operands]
    if one.kind == "slice-start":  # ((from), to)
        part = one.types.partition("), ")[2]
        return off_chip(part) + min(read[0], off_chip(part.replace("S(1)", "")))
    if one.kind == "fusion":
        body = all_of_them[CALLED.findall(one.rest)[0]]
        read = [_read_of(number, size, body) for number, size in enumerate(read)]
    return sum(read) + off_chip(one.types)


def _read_of(number: int, size: int, body: list[Instruction]) -> int:
    """What a fusion reads of an operand off the chip: of some it takes but parts."""
    (name,) = (one.name for one in body if (one.kind, *one.operands) == ("parameter", str(number)))
    users = [one for one in body if name in one.operands]
    if not all(one.kind in PARTS and one.operands[0] == name for one in users):
        return size
    return min(size, sum(off_chip(one.types) for one in users))
