"""Tensors of the Open Inference Protocol, as JSON or as bytes behind it (the binary tensor data extension).

A tensor is one column: R values of shape [R] or [R, 1], or a single one that all rows share.
"""

from typing import Any

import numpy as np

from limaml.errors import DataError
from limaml.online.columns import shown

BINARY_SIZE = "binary_data_size"

_NUMPY = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = (*_NUMPY, "BYTES")


# What JSON may hold for each; null is an unknown value of any.
_PLAIN: dict[str, set[type]] = {
    **{datatype: {int, type(None)} for datatype in _NUMPY},
    **{datatype: {int, float, type(None)} for datatype in ("FP16", "FP32", "FP64")},
    "BOOL": {bool, type(None)},
    "BYTES": {str, type(None)},
}


def values_of(tensor: Any, binary: memoryview) -> tuple[str, list[Any], int]:
    """Name and values of one input, and how many of the bytes it took from the front of `binary`.

    Raises:
        DataError: it is not a tensor of one column.
    """
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise DataError(f"inputs: each must be an object with a name, not {shown(tensor)}")
    name, datatype = tensor["name"], tensor.get("datatype")
    if datatype not in DATATYPES:
        raise DataError(f"input {name}: datatype {shown(datatype)} is none of {', '.join(DATATYPES)}")
    rows = _rows(name, tensor.get("shape"))
    parameters = tensor.get("parameters")
    size = parameters.get(BINARY_SIZE) if isinstance(parameters, dict) else None
    if size is None:
        values, taken = _flat(tensor.get("data")), 0
        if not set(map(type, values)) <= _PLAIN[datatype]:
            wrong = next(value for value in values if type(value) not in _PLAIN[datatype])
            raise DataError(f"column {name}, row {values.index(wrong)}: {shown(wrong)} is no {datatype}")
    else:
        if type(size) is not int or not 0 <= size <= len(binary):
            raise DataError(f"input {name}: {BINARY_SIZE} {shown(size)}, where {len(binary)} bytes are left")
        values, taken = _unpacked(name, datatype, binary[:size]), size
    if len(values) != rows:
        raise DataError(f"input {name}: {len(values)} values, while its shape says {rows}")
    return name, values, taken


def _rows(name: str, shape: Any) -> int:
    whole = isinstance(shape, list) and shape and all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) > 2 or shape[1:] not in ([], [1]):
        raise DataError(f"input {name}: shape {shown(shape)}; a column has shape [rows] or [rows, 1]")
    return shape[0]


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise DataError(f"data must be a list, not {shown(data)}")
    if data and all(type(each) is list and len(each) == 1 for each in data):
        return [each[0] for each in data]
    return data


def _unpacked(name: str, datatype: str, data: memoryview) -> list[Any]:
    if datatype != "BYTES":
        kind = _NUMPY[datatype]
        if len(data) % kind.itemsize:
            raise DataError(f"input {name}: {len(data)} bytes are no whole number of {datatype} values")
        return np.frombuffer(data, kind).tolist()
    values, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        value = bytes(data[at + 4 : at + 4 + size])
        if len(data) < at + 4 or len(value) < size:
            raise DataError(f"input {name}: ends within value {len(values)}")
        try:
            values.append(value.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"column {name}, row {len(values)}: not UTF-8 ({error.reason})") from error
        at += 4 + size
    return values


def as_json(name: str, datatype: str, values: np.ndarray) -> dict[str, Any]:
    """An output tensor whose data are in the JSON; NaN becomes null."""
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values.tolist()}


def as_bytes(name: str, datatype: str, values: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """An output tensor whose data follow the JSON."""
    if datatype == "BYTES":
        texts = [text.encode() for text in values.tolist()]
        data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        data = values.astype(_NUMPY[datatype]).tobytes()
    tensor = {"name": name, "datatype": datatype, "shape": [len(values)], "parameters": {BINARY_SIZE: len(data)}}
    return tensor, data
