"""Safetensors files with numpy alone: a dict of arrays, and metadata, to and from a file."""
import json
import struct

import numpy

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "u1"}


def load(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    arrays, end = {}, 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, past = tensor["data_offsets"]
        assert begin == end, f"{name} begins at {begin}, not at {end}"
        array = numpy.frombuffer(data[begin:past], TYPES[tensor["dtype"]])
        arrays[name], end = array.reshape(tensor["shape"]), past
    assert end == len(data), f"{len(data) - end} bytes behind the last tensor"
    return arrays, metadata


def save(path, arrays, metadata=None):
    header, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        dtype = next(t for t, numpys in TYPES.items() if numpy.dtype(numpys) == array.dtype)
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
