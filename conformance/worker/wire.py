"""The message format between host and worker: a frame of JSON header and raw arrays.

Frame, little-endian: magic ``RNNC`` (4 bytes), version (u16), zero (u16), header length (u32), payload length
(u64), header (UTF-8 JSON), payload (the arrays of the header's ``arrays`` list, C order, one after another).
Nothing in a frame is ever executed, and every length, dtype and shape is checked before memory is touched.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VERSION = 1
MAGIC = b"RNNC"
PREFIX = struct.Struct("<4sHHIQ")
MAX_HEADER = 4 << 20
MAX_PAYLOAD = 1 << 30
CONTAINERS: dict[str, Any] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}
DTYPES = ("float64", "float32", "float16", "bfloat16")
# Prefixes of array names: what a gradient is asked for with, gradients, and inputs as they were after the call.
COTANGENT, GRADIENT, AFTER = "cotangent:", "gradient:", "after:"
# A block is many cases of one kind, with an axis for the case in front of every array. The last three pairs are of
# benchmarks: a call made ready, timed, and what its program costs before it runs.
KINDS = (
    *("hello", "ready", "case", "observation", "block", "observations", "failure", "stop"),
    *("prepare", "prepared", "time", "timed", "costs", "costed"),
)


class WireError(Exception):
    """A frame that does not follow the format: says what was got and what was wanted."""


@dataclass
class Tensor:
    """An array on the wire: values in a float32/float64 container, and the dtype they really had."""

    values: Any  # numpy array; typed loosely so that this file runs under any NumPy
    dtype: str


@dataclass
class Message:
    """One message: its kind, a JSON object, and named arrays."""

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def encode(message: Message) -> bytes:
    """The frame of a message; WireError for arrays in another container than float32 or float64."""
    return b"".join(parts(message))


def parts(message: Message) -> list[Any]:
    """The frame of a message in pieces, of which the arrays are not copied where they are laid out as they are sent."""
    if message.kind not in KINDS:
        raise WireError(f"unknown message kind {message.kind!r}; wanted one of {', '.join(KINDS)}")
    arrays: list[dict[str, Any]] = []
    payload: list[Any] = []
    length = 0
    for name, tensor in message.tensors.items():
        values = np.asarray(tensor.values)
        container = values.dtype.name
        if container not in CONTAINERS:
            raise WireError(f"array {name!r} has dtype {container}; wanted a float32 or float64 container")
        if tensor.dtype not in DTYPES:
            raise WireError(f"array {name!r} declares dtype {tensor.dtype!r}; wanted one of {', '.join(DTYPES)}")
        arrays.append({"name": name, "container": container, "dtype": tensor.dtype, "shape": list(values.shape)})
        if values.size:  # a view of no elements cannot be cast
            laid_out: Any = np.ascontiguousarray(values, dtype=CONTAINERS[container])
            payload.append(memoryview(laid_out).cast("B"))
            length += values.nbytes
    header = json.dumps({"kind": message.kind, "body": message.body, "arrays": arrays}).encode("utf-8")
    return [PREFIX.pack(MAGIC, VERSION, 0, len(header), length) + header, *payload]


def unwritten(pieces: list[Any], count: int) -> list[Any]:
    """What is left of the pieces of a frame after so many bytes of them have been written."""
    for place, piece in enumerate(pieces):
        if count < len(piece):
            return [memoryview(piece)[count:], *pieces[place + 1 :]]
        count -= len(piece)
    return []


def read(receive: Callable[[int], bytes]) -> Message:
    """Read one message; `receive(n)` returns exactly n bytes or raises EOFError."""
    magic, version, _, header_length, payload_length = PREFIX.unpack(receive(PREFIX.size))
    if magic != MAGIC:
        raise WireError(f"not a frame: starts with {magic!r}, wanted {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"message format version {version}, wanted {VERSION}")
    if header_length > MAX_HEADER or payload_length > MAX_PAYLOAD:
        raise WireError(f"frame too large: header {header_length}, payload {payload_length} bytes")
    try:
        header = json.loads(receive(header_length).decode("utf-8"))
    except ValueError as error:
        raise WireError(f"the header is not JSON: {error}") from None
    return _message(header, receive(payload_length))


def _message(header: Any, payload: bytes) -> Message:
    if not isinstance(header, dict) or header.get("kind") not in KINDS:
        raise WireError("the header is no object of a known kind")
    body, arrays = header.get("body"), header.get("arrays")
    if not isinstance(body, dict) or not isinstance(arrays, list):
        raise WireError("the header lacks its body or its list of arrays")
    tensors: dict[str, Tensor] = {}
    offset = 0
    for entry in arrays:
        name, container, dtype, shape = _entry(entry)
        if name in tensors:
            raise WireError(f"array {name!r} is named twice")
        count = 1
        for size in shape:
            count *= size
        wanted = CONTAINERS[container]
        end = offset + count * wanted.itemsize
        if end > len(payload):
            raise WireError(f"array {name!r} of shape {shape} reaches past the payload of {len(payload)} bytes")
        values = np.frombuffer(payload, dtype=wanted, count=count, offset=offset).reshape(shape)
        tensors[name] = Tensor(values, dtype)
        offset = end
    if offset != len(payload):
        raise WireError(f"{len(payload) - offset} bytes of payload belong to no array")
    return Message(header["kind"], body, tensors)


def _entry(entry: Any) -> Any:
    if not isinstance(entry, dict):
        raise WireError(f"an array entry is no object: {str(entry)[:80]}")
    name, container, dtype = entry.get("name"), entry.get("container"), entry.get("dtype")
    shape = entry.get("shape")
    if not isinstance(name, str) or container not in CONTAINERS or dtype not in DTYPES:
        raise WireError(f"an array entry names an unknown dtype or container: {str(entry)[:120]}")
    if not isinstance(shape, list) or len(shape) > 8:
        raise WireError(f"array {name!r} has no valid shape: {str(shape)[:80]}")
    if not all(type(size) is int and 0 <= size <= MAX_PAYLOAD for size in shape):
        raise WireError(f"array {name!r} has no valid shape: {str(shape)[:80]}")
    return name, container, dtype, shape
