"""Seeded damage to files: of any bytes, and of what is inside JSON, safetensors and ``.npz`` files."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from typing import Any

import numpy as np

ABSURD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 2**64 + 1, 10**30, 10**400, 0.5, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"), "", "x", "0", "nan", "../../etc/passwd", "/dev/zero", "a\x00b", "\ud800", "\udcff",
    "\x1b[2J", "x" * 10_000, "é", "${oc.env:HOME}", "???", "torch.load", "os.system", [], [[]], {}, [None], [0] * 1000,
    [-1, 2], ["a", 1], {"": ""}, {"a": {"a": {}}}, {"_target_": "os.system", "_args_": ["true"]},
]  # fmt: skip
NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def damaged(content: bytes, dice: random.Random, other: bytes = b"") -> bytes:
    """Change bytes in one to four ways: flip, cut, splice, repeat, overwrite, insert, replace by a telling number."""
    changed = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        place = dice.randrange(len(changed) + 1)
        length = min(len(changed) - place, dice.choice([1, 2, 4, 8, 64, 1024]))
        kind = dice.randrange(9)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place : place + length] = dice.randbytes(length)
        elif kind == 4:
            changed[place:place] = dice.randbytes(dice.choice([1, 3, 100]))
        elif kind == 5:
            changed[place:place] = changed[place : place + length] * dice.choice([1, 2, 100])
        elif kind == 6:
            size = dice.choice([1, 2, 4, 8])
            number = dice.choice(NUMBERS) % 2 ** (8 * size)
            changed[place : place + size] = number.to_bytes(size, dice.choice(["little", "big"]))
        elif kind == 7:
            start = dice.randrange(len(other) + 1)
            changed[place : place + length] = other[start : start + length]
        else:
            changed[place : place + length] = bytes([dice.choice([0, 255, 32, 91])]) * length
    return bytes(changed)


def changed_json(value: Any, dice: random.Random) -> Any:
    """Change one to three places of a JSON value: another type, an absurd value, a key gone, added or renamed."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        holders = [item for item in _containers(value) if item]
        if not holders:
            return dice.choice(ABSURD)
        holder = dice.choice(holders)
        key: Any = dice.choice(list(holder)) if isinstance(holder, dict) else dice.randrange(len(holder))
        kind = dice.randrange(8)
        if kind < 4:
            holder[key] = copy.deepcopy(dice.choice(ABSURD))
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            deep: Any = 1
            for _ in range(dice.choice([2, 50, 120, 200])):
                deep = [deep] if dice.random() < 0.5 else {"a": deep}
            holder[key] = deep
        elif kind == 6:
            holder[key] = (
                copy.deepcopy(dice.choice(list(_containers(value)))) if dice.random() < 0.5 else -_number(holder[key])
            )
        elif isinstance(holder, dict):
            holder[dice.choice(["more", "", "__class__", "_target_", "a.b", "\ud800"])] = holder.pop(key)
        else:
            holder += copy.deepcopy(holder) * dice.choice([1, 50])
    return value


def json_bytes(value: Any, dice: random.Random) -> bytes:
    """Write JSON as Python does, at times with what JSON does not allow."""
    text = json.dumps(value)
    kind = dice.randrange(12)
    if kind == 0:
        return text.encode("utf-16")
    if kind == 1:
        return b"\xef\xbb\xbf" + text.encode()
    if kind == 2 and text.startswith("{"):
        return text.replace("{", '{"seed": 1, "seed": 2,', 1).encode()
    return text.encode()


def changed_safetensors(content: bytes, dice: random.Random) -> bytes:
    """Change the header of a safetensors file, its length, or what comes after it."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = dice.randrange(6)
    if kind < 4:
        fields = changed_json(json.loads(header), dice)
        if kind == 3 and isinstance(fields, dict) and fields:
            name = dice.choice(sorted(fields, key=str))
            fields[name] = {
                "dtype": dice.choice(["F32", "F64", "I64", "BOOL", "F8_E4M3", "F4", "X9", "C64"]),
                "shape": dice.choice([[0], [2**62, 4], [2**40, 0], [], [-1], [1.5], [2**64]]),
                "data_offsets": dice.choice([[0, 0], [0, 2**63], [2**63, 0], [0, len(data)], [8, 4], [-1, 4]]),
            }
        header = json_bytes(fields, dice)
        return len(header).to_bytes(8, "little") + header + data
    if kind == 4:
        return dice.choice(NUMBERS).to_bytes(8, "little") + header + data
    return content + dice.randbytes(dice.choice([1, 100])) if dice.random() < 0.5 else damaged(content, dice)


def changed_npz(content: bytes, dice: random.Random) -> bytes:
    """Pack the arrays of a ``.npz`` file again with correct check sums, one of them changed inside."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = dice.choice(sorted(members))
    kind = dice.randrange(6)
    if kind == 0:
        members[name] = damaged(members[name], dice)
    elif kind == 1:
        members[dice.choice(["../x.npy", "/x.npy", "inputs.npy", "a/inputs.npy", "classes.npy", ""])] = members.pop(
            name
        )
    elif kind == 2:
        members[name] = _npy(np.array([{"an": "object"}] * dice.choice([0, 1, 20]), dtype=object))
    elif kind == 3:
        kinds = ["<f2", ">f8", "|u1", "<i4", "|b1", "<U3", "|S2", "<c8", "<M8[s]", "|V4", "<f4"]
        shape = dice.choice([(), (0,), (3,), (20, 0), (20, 2, 2), (20, 1, 3, 3), (20, 4, 1, 3), (1, 1, 1, 1, 1)])
        members[name] = _npy(np.zeros(shape, dice.choice(kinds)))
    else:
        header = {
            "descr": dice.choice(["<f4", "|u1", "|O", "<U0", "|V0", "|S2147483647", "<i8", "9x", [("a", "<f4")], 3]),
            "fortran_order": dice.choice([True, False, None, 1]),
            "shape": dice.choice([(2**62, 4), (10**15, 0), (0, 10**15), (-1,), (20,), (1.5,), 3, (2**31, 2**31), ()]),
        }
        text = dice.choice(
            [repr(header), "{" * 150, "-" * 9000 + "1", "'\\d'", " " * 60_000, repr({**header, "x": 1})]
        ).encode()
        members[name] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + members[name][128:]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", dice.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for member, data in members.items():
            archive.writestr(member or "x", data)
    return packed.getvalue()


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)  # what a stranger would do
    return stream.getvalue()


def _containers(value: Any) -> list[Any]:
    found = [value] if isinstance(value, (dict, list)) else []
    for item in found:
        below = item.values() if isinstance(item, dict) else item
        found += [inner for inner in below if isinstance(inner, (dict, list))]
        if len(found) > 2000:
            break
    return found


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 1
