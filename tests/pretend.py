"""A pretended GPU: tensors that say they are on ``cuda`` and have their numbers on the CPU; a count of what they do.

``with Pretended() as device:`` the library takes its branches for a GPU; kernels run on the CPU below them. Counted are
the operations for which the host would wait for a GPU, and the launches of kernels. Neither is a timing.

**What waits.** ``device.waits`` counts an operation by its name where CUDA makes the host wait for the device: reading
a value (``_local_scalar_dense``, which is ``item``, ``bool``, ``float`` and ``tolist`` of one number; ``equal``), a
result whose shape depends on numbers (``nonzero``, ``masked_select``, ``index`` and ``index_put_`` by a mask, the
``unique`` family, ``repeat_interleave`` without ``output_size``, ``_coalesce``), ``bincount`` (which reads smallest and
largest), decompositions of :mod:`torch.linalg` that check for failure, a copy from the device, and a copy to it that is
not ``non_blocking`` (also where an index on the host is taken of a tensor on the device).

**What launches.** ``device.launches`` counts kernels by the name of the operation: none for views and for empty
tensors; for all others one, but for those in ``_LAUNCHES``, whose numbers are read from PyTorch's sources (CUB's radix
sort of 64 bits: a histogram, a scan and eight passes, and one for the positions; and so on). Lists of tensors
(``_foreach_*``, ``_fused_adam_``) take as many as their blocks fill. A Triton kernel counts one a launch, under its
own name. Products are one, by cuBLAS; sparse products two, by cuSPARSE. What libraries do inside that depends on the
device (split products, larger reductions) is not in the count.

A tensor on the host that meets one on the device in an operation is the error it is on a GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

CUDA = torch.device("cuda:0")
aten = torch.ops.aten

_READING = {
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "_coalesce", "bincount", "_linalg_eigh", "_linalg_svd",
    "linalg_eigh", "linalg_qr", "linalg_lstsq", "linalg_inv_ex", "multinomial", "is_nonzero", "histc",
}  # fmt: skip
_NOTHING = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
    "_values", "_indices", "values", "indices", "crow_indices", "col_indices", "is_coalesced", "_nnz", "sym_size",
    "_sparse_coo_tensor_unsafe", "_sparse_compressed_tensor_unsafe", "_sparse_csr_tensor_unsafe",
    "sparse_compressed_tensor",
    "_sparse_coo_tensor_with_dims_and_tensors", "sparse_csr_tensor", "is_pinned", "resize_", "set_", "_reshape_alias",
    "_unsafe_view", "_local_scalar_dense", "dense_dim", "sparse_dim",
}  # fmt: skip
_SMALL_SORT = 4096
_SHARED_LOOKUPS = 3072


def _radix_sort(x: Tensor) -> int:
    return 3 + x.element_size()


def _sort(x: Tensor) -> int:
    return 1 if not x.dim() or x.size(-1) <= _SMALL_SORT else _radix_sort(x)


def _chunks(lists: Sequence[Sequence[Tensor]]) -> int:
    """Launches of an operation on lists of tensors: at most 320 blocks of 65,536 entries, and so many tensors, each."""
    tensors = {1: 110, 2: 64, 3: 48, 4: 36}.get(len(lists), 30)
    blocks = sum(-(-x.numel() // 65_536) for x in lists[0])
    return max(-(-len(lists[0]) // tensors), -(-blocks // 320))


def _lists(arguments: Sequence[Any]) -> list[Sequence[Tensor]]:
    return [x for x in arguments if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]


def _embedding_backward(grad: Tensor, indices: Tensor, *_: Any, **named: Any) -> int:
    # Zeros, and one kernel for few rows; else a sort, the parts of each run of rows and their sums.
    return 2 if indices.numel() <= _SHARED_LOOKUPS else 1 + _radix_sort(indices) + 1 + 8


_LAUNCHES: dict[str, Callable[..., int]] = {
    "sort": lambda x, *_, **k: _sort(x),
    "argsort": lambda x, *_, **k: _sort(x),
    "topk": lambda *_, **k: 4,
    "cumsum": lambda *_, **k: 2,
    "cummax": lambda *_, **k: 1,
    "constant_pad_nd": lambda *_, **k: 2,
    "select_backward": lambda *_, **k: 2,
    "slice_backward": lambda *_, **k: 2,
    "native_layer_norm_backward": lambda *_, **k: 2,
    "embedding_dense_backward": _embedding_backward,
    "index_put_": lambda x, at, value, accumulate=False: 1 + (accumulate and _sort(at[0]) + 3),
    "index_put": lambda x, at, value, accumulate=False: 2 + (accumulate and _sort(at[0]) + 3),
    "_index_put_impl_": lambda x, at, value, accumulate=False, unsafe=False: 1 + (accumulate and _sort(at[0]) + 3),
    "randperm": lambda n, **_: 4 if n > _SMALL_SORT else 3,
    "logsumexp": lambda *_, **k: 4,
    "_fused_adam_": lambda *a, **k: _chunks(_lists(a)[:4]),
    "bincount": lambda *_, **k: 4,
    "unique_consecutive": lambda *_, **k: 4,
    "_unique2": lambda x, *_, **k: _sort(x) + 4,
    "nonzero": lambda *_, **k: 3,
}


class OnDevice(Tensor):
    """A tensor of the pretended device; ``inner`` has the numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        strided = inner.layout == torch.strided
        # For the code below Python it is a tensor without numbers: a build without CUDA knows no CUDA tensor.
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride() if strided else None,
            storage_offset=inner.storage_offset() if strided else None,
            dtype=inner.dtype,
            device=torch.device("meta"),
        )
        made.inner = inner
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    layout = property(lambda self: self.inner.layout)  # type: ignore[assignment]
    is_sparse = property(lambda self: self.inner.is_sparse)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def coalesce(self) -> Any:
        return self if self.inner.is_coalesced() else aten._coalesce(self)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on the pretended device after it was left")


def host(x: Any) -> Any:
    """The numbers of tensors of the device, in any structure; counts nothing."""
    return tree_map(lambda one: one.inner if isinstance(one, OnDevice) else one, x)


class Pretended(TorchDispatchMode):
    """See the module. ``run_kernels`` says whether Triton's kernels run, which needs its interpreter.

    Args:
        run_kernels: False to launch nothing: what kernels write is then left as it was.
        arch, multiprocessors: of the device, for the choice of tiles.
    """

    def __init__(self, *, run_kernels: bool = True, arch: int = 90, multiprocessors: int = 132) -> None:
        super().__init__()
        self.run_kernels, self.arch, self.multiprocessors = run_kernels, arch, multiprocessors
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.from_host = 0
        """copies to the device that do not wait"""
        self._left = contextlib.ExitStack()
        self._depth = 0

    def restart(self) -> None:
        """Count from nothing."""
        self.waits.clear()
        self.launches.clear()
        self.from_host = 0

    def put(self, x: Tensor) -> Tensor:
        """A tensor on the device; counts nothing."""
        return OnDevice(x)

    def __enter__(self) -> Pretended:
        if not self._depth:
            self._left.enter_context(FakeTensorMode(allow_non_fake_inputs=True))  # so that CUDA is not initialised
            self._left.enter_context(_as_on_a_gpu(self))
        self._depth += 1
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._depth -= 1
        if not self._depth:
            self._left.__exit__(*error)

    def launch(self, kernel: Any, run: Callable[..., Any], arguments: Any, named: Any) -> Any:
        """A launch of a Triton kernel."""
        self.launches[kernel.__name__] += 1
        assert all(isinstance(x, OnDevice) for x in arguments if isinstance(x, Tensor)), "a kernel reads the host"
        if self.run_kernels:
            with _apart():
                run(kernel, *host(arguments), **host(named))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        if func.namespace == "infodcl_geo":
            with self:
                return _custom_ops()[name](*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = any(isinstance(x, OnDevice) for x in tensors)
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        # Below Python the device is called meta.
        goes = here if target is None else target.type in ("cuda", "meta")
        if name == "_to_copy" and here and goes and target is not None and kwargs.get("dtype") in (None, args[0].dtype):
            return OnDevice(args[0].inner)  # from the device to itself, which below Python have two names
        if goes or here:
            self._count(func, name, args, kwargs, here, goes)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        with unset_fake_temporarily():
            result = func(*host(args), **host(kwargs))
        if not goes:
            return result
        known = {id(x.inner): x for x in tensors if isinstance(x, OnDevice)}
        return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else OnDevice(x), result)

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, here: bool, goes: bool) -> None:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        plain = [x for x in tensors if not isinstance(x, OnDevice) and x.dim()]
        if name in ("_to_copy", "copy_"):
            across = here != goes if name == "_to_copy" else not all(isinstance(x, OnDevice) for x in args[:2])
            if across:
                waiting = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
                if waiting or not goes or (not isinstance(args[0], OnDevice) and name == "copy_"):
                    self.waits[f"{name} between host and device"] += 1
                else:
                    self.from_host += 1
        elif name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple):
            filled = name.startswith("index_put") and len(args[1]) == 1 and args[2].numel() == 1
            for at in () if filled else args[1]:
                if isinstance(at, Tensor) and at.dtype in (torch.bool, torch.uint8):
                    self.waits[f"{name} by a mask"] += 1
                elif isinstance(at, Tensor) and not isinstance(at, OnDevice):
                    self.waits[f"{name} by an index on the host"] += 1
        elif (name == "repeat_interleave" and kwargs.get("output_size") is None) or name in _READING:
            self.waits[name] += 1
        elif plain and tensors != plain and name != "lift_fresh":
            raise RuntimeError(f"{name} of tensors on cuda and on the host: {[list(x.shape) for x in plain]}")
        if func.is_view or name in _NOTHING:
            return
        self.launches[name] += self._launches(name, args, kwargs)

    def _launches(self, name: str, args: Any, kwargs: Any) -> int:
        if name == "_foreach_norm":
            return 2 + _chunks(_lists(args))
        if name.startswith("_foreach"):
            return _chunks(_lists(args))
        if name in ("mm", "addmm") and any(isinstance(x, Tensor) and x.layout != torch.strided for x in host(args)):
            return 2
        if name in _LAUNCHES:
            return _LAUNCHES[name](*args, **kwargs)
        return 1


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Outside of all modes."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield


def _custom_ops() -> dict[str, Callable[..., Any]]:
    """What the library's own operations do, by name."""
    from infodcl_geo.kernels import infonce_op

    psnet, svd = (sys.modules[f"infodcl_geo.kernels.{name}"] for name in ("psnet", "svd"))
    ops = [infonce_op.forward_op, infonce_op._candidate_grad_op, psnet._kernel, psnet._kernel_backward, svd._svd]
    return {op._name: op._init_fn for op in ops}


@contextlib.contextmanager
def _as_on_a_gpu(device: Pretended) -> Iterator[None]:
    """What the library and PyTorch ask of a device, answered for the pretended one."""
    import triton
    from triton.runtime import interpreter

    from infodcl_geo.kernels import infonce_launch

    optimizers = importlib.import_module("torch.optim.optimizer")
    own = torch._C._group_tensors_by_device_and_dtype
    compiled, interpreted = triton.JITFunction.run, interpreter.InterpretedFunction.run

    def grouped(*arguments: Any) -> Any:
        return {((CUDA, key[1]) if key[0].type == "meta" else key): x for key, x in own(*arguments).items()}

    def run_compiled(kernel: Any, *arguments: Any, **named: Any) -> Any:
        return device.launch(kernel, compiled, arguments, named)

    def run_interpreted(kernel: Any, *arguments: Any, **named: Any) -> Any:
        return device.launch(kernel, interpreted, arguments, named)

    with (
        mock.patch.object(torch.cuda, "device_of", return_value=contextlib.nullcontext()),
        mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", grouped),
        mock.patch.object(
            torch.utils._foreach_utils, "_foreach_supported_types", [Tensor, torch.nn.Parameter, OnDevice]
        ),
        mock.patch.object(optimizers, "_foreach_supported_types", [Tensor, torch.nn.Parameter, OnDevice]),
        mock.patch.object(triton.JITFunction, "run", run_compiled),
        mock.patch.object(interpreter.InterpretedFunction, "run", run_interpreted),
        mock.patch.object(infonce_launch, "arch_of", return_value=device.arch),
        mock.patch.object(infonce_launch, "multiprocessors", return_value=device.multiprocessors),
    ):
        yield
