"""The message format: what goes in comes out, and nothing malformed gets past it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.worker.wire import MAGIC, PREFIX, VERSION, Message, Tensor, WireError, encode, parts, read, unwritten


def _read(data: bytes) -> Message:
    stream = io.BytesIO(data)

    def receive(count: int) -> bytes:
        chunk = stream.read(count)
        if len(chunk) != count:
            raise EOFError
        return chunk

    return read(receive)


def _frame(header: object, payload: bytes = b"", *, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return PREFIX.pack(magic, version, 0, len(text), len(payload)) + text + payload


def _entry(**changes: object) -> dict[str, object]:
    return {"name": "x", "container": "float32", "dtype": "float32", "shape": [2], **changes}


@pytest.mark.parametrize("container", [np.float32, np.float64])
def test_arrays_survive_bit_for_bit(container: type) -> None:
    """Values, including NaN payloads, infinities and subnormals, and empty and scalar shapes, are unchanged."""
    values = np.array([[1.5, -0.0, np.inf], [np.nan, 1e-45, 3e-320]]).astype(container)
    arrays = {"a": values, "empty": values[:0], "scalar": values[0, 0].reshape(())}
    message = Message("observation", {"seconds": 1.0}, {k: Tensor(v, "bfloat16") for k, v in arrays.items()})
    back = _read(encode(message))
    assert (back.kind, back.body) == ("observation", {"seconds": 1.0})
    for name, array in arrays.items():
        assert back.tensors[name].dtype == "bfloat16"
        assert back.tensors[name].values.shape == array.shape
        assert back.tensors[name].values.tobytes() == array.tobytes()


@given(st.lists(st.integers(1, 90)))
def test_a_frame_in_pieces_is_the_frame(written: list[int]) -> None:
    """However many bytes are taken at a time, over the borders of pieces, too; arrays that lie otherwise are copied."""
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"a": grid, "turned": grid.T, "none": grid[:0], "scalar": grid[0, 0].reshape(())}
    message = Message("case", {"n": 1}, {name: Tensor(values, "float32") for name, values in arrays.items()})
    left, got = parts(message), b""
    for count in (*written, 10**6):
        whole = b"".join(left)
        got += whole[:count]
        left = unwritten(left, min(count, len(whole)))
    assert left == []
    assert got == encode(message)
    assert np.array_equal(_read(got).tensors["turned"].values, grid.T)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (_frame({}, magic=b"HTTP"), "not a frame"),
        (_frame({}, version=9), "version 9"),
        (_frame(b"{nonsense"), "not JSON"),
        (_frame([]), "known kind"),
        (_frame({"kind": "exec", "body": {}, "arrays": []}), "known kind"),
        (_frame({"kind": "ready", "body": [], "arrays": []}), "lacks its body"),
        (_frame({"kind": "ready", "body": {}, "arrays": [[]]}), "no object"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry(container="object")]}), "unknown dtype"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry(shape=[-1])]}), "no valid shape"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry(shape=[True])]}), "no valid shape"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry(shape=[10**9, 10**9])]}), "reaches past"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry()]}, b"1234567"), "reaches past"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry()]}, b"123456789"), "belong to no array"),
        (_frame({"kind": "ready", "body": {}, "arrays": [_entry(), _entry()]}, b"1" * 16), "named twice"),
        (PREFIX.pack(MAGIC, VERSION, 0, 2**31, 0), "too large"),
        (PREFIX.pack(MAGIC, VERSION, 0, 2, 2**40), "too large"),
    ],
)
def test_malformed_frames_are_refused(data: bytes, problem: str) -> None:
    """Every malformed frame gets one message, before any memory is taken for it."""
    with pytest.raises(WireError, match=problem):
        _read(data)


def test_object_arrays_cannot_be_sent() -> None:
    """There is no way to put anything but numbers on the wire."""
    with pytest.raises(WireError, match="float32 or float64 container"):
        encode(Message("observation", {}, {"x": Tensor(np.array([object()]), "float32")}))


def test_a_cut_frame_is_the_end_of_input() -> None:
    """A frame that stops in the middle is an end of input, not a short array."""
    data = encode(Message("observation", {}, {"x": Tensor(np.ones(3), "float64")}))
    with pytest.raises(EOFError):
        _read(data[:-1])
