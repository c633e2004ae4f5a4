"""Arrays of numpy as types of a Python model's parameters and results."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import core_schema

from penstock.models.replica.contract.media import File, media_schema
from penstock.models.replica.contract.numbers import numpy_itself

if TYPE_CHECKING:
    import numpy
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

NPY: Final = "application/x-npy"
_LEAVES: Final = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}  # by the first letter of a dtype


class Array:
    """Annotation of arrays, as in ``Annotated[numpy.ndarray, Array("float32", (None, 8))]``: a parameter takes nested
    lists, or an ``.npy`` file.

    ``shape`` holds the length of each axis, or None for any length; ``shape=None`` allows any number of axes. ``dtype``
    is a boolean, integer or floating type of at most 64 bits. The model may write to an array that it gets as a
    parameter; an array that it returns becomes nested lists.
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, dtype: str = "float32", shape: tuple[int | None, ...] | None = None) -> None:
        if not re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)", dtype):
            raise ValueError(f"dtype must be bool, int8 to int64, uint8 to uint64 or float16 to float64, not {dtype!r}")
        if shape is not None and any(axis is not None and axis < 0 for axis in shape):
            raise ValueError(f"shape must hold lengths of at least 0, or None, not {shape}")
        self.dtype = dtype
        self.shape = shape

    def __repr__(self) -> str:
        return f"Array({self.dtype!r}, {self.shape!r})"

    def taken(self, value: object) -> numpy.ndarray:
        """Return lists, an ``.npy`` file or an array as an array of this dtype and shape. Raises ValueError."""
        np = numpy_itself()
        if isinstance(value, str):
            value = File.of_url(value)
        if isinstance(value, File):
            array = _read_npy(value)
        elif isinstance(value, list | tuple | int | float) or hasattr(value, "__array__"):
            try:
                array = np.array(value)
            except (ValueError, OverflowError):
                raise ValueError("must be nested lists of numbers, each as long as its neighbours") from None
        else:
            raise ValueError(f"must be nested lists of numbers, or media of type {NPY}")
        return self._of_shape(self._of_dtype(array))

    def _of_dtype(self, array: numpy.ndarray) -> numpy.ndarray:
        np = numpy_itself()
        wanted = np.dtype(self.dtype)
        if array.size and (array.dtype.kind not in "biuf" or (wanted.kind == "b") != (array.dtype.kind == "b")):
            raise ValueError(f"must hold {_LEAVES[wanted.kind]}s only")
        with np.errstate(over="ignore", invalid="ignore"):
            converted: numpy.ndarray = array.astype(wanted)
        if wanted.kind == "f":
            fits = bool((np.isfinite(converted) == np.isfinite(array)).all())
        else:
            fits = bool((converted == array).all())
        if not fits:
            raise ValueError(f"must hold {_LEAVES[wanted.kind]}s that {self.dtype} can hold")
        return converted

    def _of_shape(self, array: numpy.ndarray) -> numpy.ndarray:
        if self.shape is None:
            return array
        if array.shape == (0,) and self.shape and not self.shape[0]:
            array = array.reshape((0, *(axis or 0 for axis in self.shape[1:])))
        if array.ndim != len(self.shape) or any(
            axis is not None and axis != length for axis, length in zip(self.shape, array.shape, strict=True)
        ):
            wanted = ", ".join("any" if axis is None else str(axis) for axis in self.shape)
            raise ValueError(f"must have the shape [{wanted}], not {list(array.shape)}")
        return array

    def __get_pydantic_core_schema__(self, source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        if getattr(source, "__module__", "").partition(".")[0] != "numpy":
            raise TypeError(f"{self!r} describes a numpy.ndarray, not {source!r}")
        return core_schema.no_info_plain_validator_function(
            self.taken,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda array: array.tolist(), return_schema=core_schema.any_schema(), when_used="json"
            ),
            metadata={"pydantic_js_functions": [self._json_schema]},
        )

    def _json_schema(self, _schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        lists = self._nested()
        return lists if handler.mode == "serialization" else {"anyOf": [lists, media_schema(NPY)]}

    def _nested(self) -> dict[str, Any]:
        kind = _LEAVES[self.dtype[0]]
        if self.shape is None:
            return {"type": [kind, "array"]}  # nested lists of any depth; the model checks what is in them
        leaf: dict[str, Any] = {"type": kind}
        for axis in reversed(self.shape):
            fixed = {} if axis is None else {"minItems": axis, "maxItems": axis}
            leaf = {"type": "array", "items": leaf, **fixed}
        return leaf


def _read_npy(file: File) -> numpy.ndarray:
    """Return the array of an ``.npy``. Its header must match the number of its bytes, and objects are refused."""
    np = numpy_itself()
    if file.media_type not in {NPY, "application/octet-stream"}:
        raise ValueError(f"must be nested lists of numbers, or media of type {NPY}, not {file.media_type}")
    data = file.data
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = read(stream)
        count = 1
        for axis in shape:
            count *= axis
        if dtype.hasobject or min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - stream.tell():
            raise ValueError("its header does not fit its content")
        flat: numpy.ndarray = np.frombuffer(data, dtype=dtype, count=count, offset=stream.tell())
        return flat.reshape(shape, order="F" if columns_first else "C")
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"is not an .npy file of numbers: {error}") from None
