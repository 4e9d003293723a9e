"""Arrays of all kinds in, the same kind out.

Element types: f32, i64, bool and u8 are taken as they are; f64, f16 and bf16 become f32 (f64 is rounded to the nearest), other integers i64.
"""

import sys

import numpy as np

_TAKEN = {np.dtype("float32"), np.dtype("int64"), np.dtype("bool"), np.dtype("uint8")}


def is_torch(value):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(name, value, dtype=None):
    """An array of a type that programs have; `dtype` is what the program declares."""
    if is_torch(value):
        value = value.detach().cpu()
        if value.dtype in (sys.modules["torch"].bfloat16, sys.modules["torch"].float16):
            value = value.float()
        array = value.numpy()
    elif isinstance(value, np.ndarray):
        array = value
    elif hasattr(value, "__dlpack__") and not isinstance(value, (list, tuple)):
        array = np.from_dlpack(value)
    else:
        array = np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` has elements of type {array.dtype}, which is no number")
    if dtype == "f32" and array.dtype != np.float32:
        if array.dtype.kind in "iub" and array.size and np.abs(array.astype("int64")).max() > 1 << 24:
            raise TypeError(f"`{name}` is {array.dtype}, and holds integers that f32 cannot hold exactly")
        array = array.astype(np.float32)
    elif dtype in ("i64", "bool", "u8") and array.dtype.kind == "f":
        raise TypeError(f"`{name}` is {array.dtype}{list(array.shape)}, and the program declares {dtype}")
    elif dtype == "i64" and array.dtype != np.int64:
        array = array.astype(np.int64)
    elif array.dtype not in _TAKEN:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return np.ascontiguousarray(array) if array.ndim else array.reshape(())


def like(example, array):
    """An array as what `example` is."""
    if is_torch(example):
        torch = sys.modules["torch"]
        return torch.from_numpy(array).to(example.device)
    if isinstance(example, (np.ndarray, list, tuple, int, float)) or not hasattr(example, "__array_namespace__"):
        return array
    return example.__array_namespace__().from_dlpack(array)
