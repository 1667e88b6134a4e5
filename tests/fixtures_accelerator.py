"""A stand-in of a CUDA device: tensors with real values, computed on the CPU, that say they live on `cuda:0`.

What code for a GPU gets wrong on a machine without one is found by it, as on the device itself:

- a tensor of the host in an operation with one of the device is refused, but for numbers (0-dim) where CUDA takes them;
- every time the host waits for the device is counted: copies (`non_blocking` ones apart), `item`, `bool`, shapes that
  depend on values;
- a copy that does not wait (`non_blocking`) has not arrived before its event, its stream or the device was waited for:
  until then the host reads nonsense.

To torch the tensors are on its `meta` device, which has no kernels; two modes turn what is asked of `cuda` into it, and
compute everything on the CPU. The true `meta` is not there meanwhile, so language models are loaded before the device
is opened. Registered by conftest.py.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map, tree_map_only

CUDA, META, HOST = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
# The size of what comes out depends on values: the host has to know it, so it waits.
WAITING = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten.bincount.default, aten.unique_consecutive.default,
    aten._unique2.default, aten.unique_dim.default,
}  # fmt: skip
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
SUBSCRIPTS = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
BUILDING = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}


class OnDevice(torch.Tensor):
    """A tensor that says it lives on `cuda:0`; its values are in `held`, on the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnDevice:
        sizes = {"strides": real.stride(), "storage_offset": real.storage_offset(), "dtype": real.dtype}
        found = torch.Tensor._make_wrapper_subclass(cls, real.size(), **sizes, device=META)
        found.held = real
        return found

    @property
    def device(self) -> torch.device:
        return CUDA

    is_cuda, is_cpu, is_meta = True, False, False

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.held})"

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return self.cpu().numpy()

    def __array__(self, *_args: Any, **_settings: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @property
    def data(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]  as adapters are merged
        return self.detach()

    @data.setter
    def data(self, new: OnDevice) -> None:
        assert new.shape == self.shape and new.dtype == self.dtype, "this wrapper keeps its shape"
        self.held = new.held

    def record_stream(self, _stream: object) -> None:
        """Nothing: memory here is not given to others."""

    def is_pinned(self, *_args: Any) -> bool:
        return False

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        found = OnDevice(self.held.clone())
        found = torch.nn.Parameter(found, self.requires_grad) if isinstance(self, torch.nn.Parameter) else found
        return memo.setdefault(id(self), found)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of a device that is closed")


class Accelerator:
    """The device, while it is open.

    Attributes:
        waits: Where the host waited for the device, the line of ours that made it wait.
        pending: Copies that are on their way to the host.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.pending: list[Callable[[], object]] = []

    def moved(self, lm: Any) -> Any:
        """Return a copy of a language model that lives on the device."""
        return replace(lm, model=deepcopy(lm.model).to(CUDA), device=CUDA)

    def agree(self, found: Any, expected: Any, *, rtol: float = 1e-3, atol: float = 1e-5) -> None:
        """Check that what a station gave on the device is what it gave on the CPU: numbers nearly, all else exactly."""
        ours, theirs = dict(_parts(found)), dict(_parts(expected))
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            if isinstance(value, str):
                assert ours[name] == value, name
                continue
            said = partial("{}: {}".format, name)
            torch.testing.assert_close(ours[name], value, rtol=rtol, atol=atol, equal_nan=True, msg=said)

    def wait(self, _device: object = None) -> None:
        """Have everything arrive that is on its way."""
        self.waited()
        self.arrive(len(self.pending))

    def arrive(self, n: int) -> None:
        """Have the first n copies arrive."""
        for copy in self.pending[:n]:
            copy()
        self.pending[:n] = [lambda: None] * n  # events count from the beginning

    def waited(self) -> None:
        """Note that the host waits."""
        frame = sys._getframe()
        while frame is not None and not _is_ours(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            self.waits.append("")
            return
        name, number = frame.f_code.co_filename, frame.f_lineno
        self.waits.append(f"{Path(name).name}:{number} {linecache.getline(name, number).strip()}")

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operation as the device would."""
        tensors = [t for t in _leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        ours = [t for t in tensors if isinstance(t, OnDevice)]
        where = kwargs.get("device")
        if not ours and (where is None or torch.device(where).type != "meta"):
            return func(*args, **kwargs)
        self._check(func, args, [t for t in tensors if not isinstance(t, OnDevice)], bool(ours))
        if func is aten.copy_.default and not isinstance(args[0], OnDevice):
            return self._to_host(func, args, kwargs)
        to_host = where is not None and torch.device(where).type == "cpu"  # also a copy that need not wait: it does
        if to_host or _has_to_wait(func, args, kwargs):
            self.waited()
        real_args, real_kwargs = tree_map_only(OnDevice, lambda t: t.held, (args, kwargs))
        if where is not None:
            real_kwargs["device"] = HOST
        real_kwargs.pop("pin_memory", None)
        out = func(*real_args, **real_kwargs)
        if to_host:
            return out
        wrapped = tree_map_only(torch.Tensor, OnDevice, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if ours else wrapped

    def _check(self, func: Any, args: tuple[Any, ...], others: list[torch.Tensor], has_ours: bool) -> None:
        """Refuse tensors of the host beside those of the device, where CUDA does."""
        if func in COPIES or not has_ours:
            return
        if func in INDEXING:  # the places may be numbers of the host; it is the values that may not
            places = [t for t in args[1] if t is not None]
            others = [t for t in others if not any(t is place for place in places)]
            if not isinstance(args[0], OnDevice):
                raise RuntimeError(f"indices should be on the same device as the indexed tensor (cpu): {func}")
        foreign = [t for t in others if t.ndim > 0 or torch.Tag.pointwise not in func.tags]
        if func in INDEXING:
            foreign = [t for t in others if t.ndim > 0]
        if foreign:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({func}, {[tuple(t.shape) for t in foreign]})"
            )

    def _to_host(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Copy into a tensor of the host; one that does not wait arrives later, and is nonsense before."""
        target, source, not_waiting = args[0], args[1].held, bool(args[2:] and args[2]) or kwargs.get("non_blocking")
        if not not_waiting:
            self.waited()
            return func(target, source)
        values = source.clone()  # in the order of the stream: what happens to the source later does not matter
        target.view(-1).view(torch.uint8).fill_(0xFF)
        self.pending.append(lambda: func(target, values))
        return target


class _Dispatch(TorchDispatchMode):
    """Sends operations to the device."""

    def __init__(self, device: Accelerator) -> None:
        super().__init__()
        self.to = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.to.run(func, args, dict(kwargs or {}))


class _Function(TorchFunctionMode):
    """Calls by another name what torch would not do without CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        kwargs.pop("pin_memory", None)
        if func in SUBSCRIPTS and isinstance(args[0], OnDevice):
            args = (args[0], _places(args[1]), *args[2:])
        if func is torch.Tensor.cuda:
            return args[0].to(META)
        if func in BUILDING:
            data, where = args[0], kwargs.pop("device", None)
            if func is torch.Tensor.new_tensor:
                where, data, args = where or data.device, args[1], args[1:]
                kwargs.setdefault(
                    "dtype",
                    None
                    if kwargs.get("dtype")
                    else torch.tensor(data).dtype
                    if not isinstance(data, float)
                    else torch.get_default_dtype(),
                )
                func = torch.tensor
            found = data if isinstance(data, OnDevice) else func(*args, **kwargs)
            return found.to(META) if where is not None and _is_cuda(where) else found
        args, kwargs = tree_map(_renamed, (args, kwargs))
        return func(*args, **kwargs)


@cache
def _is_ours(name: str) -> bool:
    """Tell whether a file is of this repository, and neither this one nor of an environment inside it."""
    path = Path(name)
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts and path != Path(__file__)


def _is_cuda(where: Any) -> bool:
    return torch.device(where).type == "cuda"


def _renamed(value: Any) -> Any:
    """Return `meta` for `cuda`."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return META
    return META if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


def _parts(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor | str]]:
    """Yield what a result is made of: its numbers as tensors of the host, anything else as text."""
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _parts(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _parts(part, f"{name}[{index}]")
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        yield name, repr(value.tolist())
    elif isinstance(value, torch.Tensor | np.ndarray | float):
        yield name, torch.as_tensor(value.copy() if isinstance(value, np.ndarray) else value).detach().cpu()
    else:
        yield name, repr(value)


def _places(index: Any) -> Any:
    """Return an index with tensors of the host in the place of lists, of which torch would make tensors on `meta`."""
    if isinstance(index, tuple):
        return tuple(_places(part) for part in index)
    return torch.tensor(list(index)) if isinstance(index, list | range | np.ndarray) else index


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _has_to_wait(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether the host waits for the device in an operation that leaves its result there."""
    if func in INDEXING:  # a mask becomes places, whose number has to be known; places of the host have to arrive
        places = [place for place in args[1] if place is not None]
        return any(p.dtype in (torch.bool, torch.uint8) or not isinstance(p, OnDevice) for p in places)
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    if func in COPIES:
        source = args[1] if func is aten.copy_.default else args[0]
        not_waiting = kwargs.get("non_blocking") or bool(args[2:] and args[2])
        return not isinstance(source, OnDevice) and not not_waiting
    return func in WAITING


class _Generator(torch.Generator):
    """A generator of the stand-in: the CPU's numbers."""

    def __new__(cls, _device: object = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")


class _Stream:
    """A stream of the stand-in."""

    def __init__(self, *_args: Any, **_settings: Any) -> None: ...

    def wait_stream(self, _other: object) -> None: ...

    def wait_event(self, _event: object) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        event.record(self)
        return event


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    """Open the device: as long as this lasts, `cuda` is there."""
    device = Accelerator()

    class Event:
        def __init__(self, **_settings: Any) -> None:
            self.n = 0

        def record(self, _stream: object = None) -> None:
            self.n = len(device.pending)

        def synchronize(self) -> None:
            device.arrive(self.n)

    stand_ins = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "synchronize": device.wait,
        "mem_get_info": lambda _device=None: (2**40, 2**40),
        "empty_cache": lambda: None,
        "get_rng_state": lambda _device=None: torch.empty(0),
        "set_rng_state": lambda *_state: None,
        "current_stream": lambda _device=None: _Stream(),
        "stream": lambda _stream: nullcontext(),
        "Stream": _Stream,
        "Event": Event,
    }
    with monkeypatch.context() as patch:
        for name, value in stand_ins.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "Generator", _Generator)
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied weights stay tied
        function, run_backward = _Function(), torch.autograd._engine_run_backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            with function:  # torch closes it while a function that it was asked for runs
                return run_backward(*args, **kwargs)

        patch.setattr(torch.autograd, "_engine_run_backward", backward)
        try:
            with function, _Dispatch(device):
                yield device
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    """A stand-in of a CUDA device, for the length of a test."""
    with opened(monkeypatch) as device:
        yield device
