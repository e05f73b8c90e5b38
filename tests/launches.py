"""Which calls the tests make of the Triton kernels, and which compiled specialisations those would need on a GPU.

Two halves of one question, "does everything that the tests run also compile?", that one process cannot answer:

- as a pytest plugin (``-p launches``) in a process under ``TRITON_INTERPRET=1`` it notes the arguments of every call of
  a launching function and writes them to the file named by ``RECORD_LAUNCHES``;
- :func:`specialisations`, in a process that can compile, makes the same calls with a launcher that launches nothing,
  as a given device would see them, and returns the distinct kernels that would be compiled.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor

from infodcl_geo.kernels import ItemTable

PACKAGE = "infodcl_geo.kernels."
#: The functions that launch, and the class whose methods do: (module, name, methods)
LAUNCHING: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("infonce_launch", "TritonTiles", ("forward", "candidate_grad")),
    ("psnet_triton", "psnet_forward", ()),
    ("psnet_triton", "psnet_backward", ()),
    ("svd_triton", "svd_triton", ()),
    ("bpr_triton", "TritonSteps", ("run",)),
    ("bpr_triton", "flush_triton", ()),
    ("topk_triton", "top_k_triton", ()),
)


class Like(NamedTuple):
    """A tensor but for its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def make(self) -> Tensor:
        reach = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True) if n > 1) + 1
        return torch.zeros(reach, dtype=self.dtype).as_strided(self.shape, self.stride, self.offset)


class Table(NamedTuple):
    """An ``ItemTable`` but for its numbers."""

    items: Like


class Call(NamedTuple):
    """One call: of a function, or of a method of an object made for it."""

    module: str
    name: str
    method: str
    made_with: Any
    arguments: Any


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Like(tuple(value.shape), value.stride(), value.storage_offset() % 16, value.dtype)
    if isinstance(value, ItemTable):
        return Table(_describe(value.items))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_describe, value))
    if isinstance(value, list | tuple):
        return tuple(map(_describe, value))
    return value


def _revive(value: Any) -> Any:
    if isinstance(value, Like):
        return value.make()
    if isinstance(value, Table):
        return ItemTable(value.items.make())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_revive, value))
    return [_revive(x) for x in value] if isinstance(value, tuple) else value


# -- Recording: a pytest plugin ----------------------------------------------------------------------------------------

_seen: dict[Call, None] = {}


def pytest_configure() -> None:
    for module_name, name, methods in LAUNCHING:
        module = importlib.import_module(PACKAGE + module_name)
        if methods:
            _watch_class(getattr(module, name), module_name, name, methods)
        else:
            setattr(module, name, _watch(getattr(module, name), module_name, name))


def _watch(function: Any, module: str, name: str) -> Any:
    @functools.wraps(function)
    def watched(*arguments: Any) -> Any:
        _seen[Call(module, name, "", (), _describe(arguments))] = None
        return function(*arguments)

    return watched


def _watch_class(cls: Any, module: str, name: str, methods: Sequence[str]) -> None:
    make = cls.__init__

    def watched_make(self: Any, *arguments: Any) -> None:
        self.made_with = _describe(arguments)
        make(self, *arguments)

    cls.__init__ = watched_make
    for method in methods:
        function = getattr(cls, method)

        def watched(self: Any, *arguments: Any, method: str = method, function: Any = function) -> Any:
            _seen[Call(module, name, method, self.made_with, _describe(arguments))] = None
            return function(self, *arguments)

        setattr(cls, method, watched)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    with Path(os.environ["RECORD_LAUNCHES"]).open("wb") as file:
        pickle.dump(list(_seen), file)


# -- Replaying ---------------------------------------------------------------------------------------------------------


class Specialisation(NamedTuple):
    """What is compiled once: ``aot.compile_report`` takes it."""

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    launch: tuple[tuple[str, int], ...]

    @property
    def family(self) -> tuple[Any, ...]:
        """The same for specialisations that differ only in what is known of integers and alignments."""
        kinds = tuple((name, kind) for name, kind in self.signature if kind.startswith("*"))
        named = tuple((name, value) for name, value in self.constants if name.isupper())
        return self.module, self.kernel, kinds, named, self.launch


def specialisations(calls: Sequence[Call], arch: int) -> list[Specialisation]:
    """Distinct kernels that a device would compile for the calls; ``arch`` as ``infonce_launch.arch_of`` has it."""
    found: dict[Specialisation, None] = {}
    with launching_nothing(found, arch):
        for call in calls:
            target = getattr(importlib.import_module(PACKAGE + call.module), call.name)
            if call.method:
                target = getattr(target(*_revive(call.made_with)), call.method)
            target(*_revive(call.arguments))
    return list(found)


@contextmanager
def launching_nothing(found: dict[Specialisation, None], arch: int) -> Iterator[None]:
    """Kernels that are launched are noted instead, and the launching functions take the CPU for a device."""
    import triton

    from infodcl_geo.kernels import infonce_launch

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        found[_specialise(kernel, arguments, named)] = None

    with (
        mock.patch.object(triton.JITFunction, "run", run),
        mock.patch.object(infonce_launch, "arch_of", return_value=arch),
        mock.patch.object(infonce_launch, "multiprocessors", return_value=132),
        mock.patch.object(torch.version, "hip", "6.0" if arch == 0 else None),
    ):
        yield


def _specialise(kernel: Any, arguments: Sequence[Any], named: dict[str, Any]) -> Specialisation:
    """What Triton's launcher makes of the arguments: constants of ones and None, alignment to 16, 32 or 64 bits."""
    launch = tuple((name, named.pop(name)) for name in ("num_warps", "num_stages") if name in named)
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned = []
    bound = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    for parameter in kernel.params:
        name, value = parameter.name, bound[parameter.name]
        if parameter.is_constexpr or value is None:
            constants[name] = value
        elif isinstance(value, Tensor):
            short = {"float": "fp", "bfloat": "bf", "int": "i"}
            kind, bits = str(value.dtype).removeprefix("torch.").rstrip("0123456789"), value.dtype.itemsize * 8
            signature[name] = "*i1" if kind == "bool" else f"*{short[kind]}{bits}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                aligned.append(name)
        elif isinstance(value, bool):
            signature[name] = "i1"
        elif isinstance(value, int):
            if value == 1 and not parameter.do_not_specialize:
                constants[name] = 1
                continue
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                aligned.append(name)
        else:
            signature[name] = "fp32"
    module = kernel.fn.__module__
    return Specialisation(
        module, kernel.__name__, tuple(signature.items()), tuple(constants.items()), tuple(aligned), launch
    )
