"""Sparse graphs: built once, normalised once, multiplied fast.

A :class:`Graph` holds a PyG ``SparseTensor`` where torch-sparse is installed and a torch CSR tensor where it is not;
this file is the only one that knows the difference. Setting the environment variable ``INFODCL_GEO_TORCH_SPARSE=0``
before the first import chooses torch CSR although torch-sparse is there.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SparseTensor: Any = None
if os.environ.get("INFODCL_GEO_TORCH_SPARSE", "1") != "0":
    with contextlib.suppress(ImportError, OSError):  # OSError: a wheel built for another torch
        from torch_sparse import SparseTensor  # type: ignore[no-redef]

WITH_TORCH_SPARSE: bool = SparseTensor is not None
"""Whether graphs are of PyG's ``SparseTensor`` (torch-sparse is usable) or torch CSR tensors."""

SparseMatrix: TypeAlias = Any
"""A ``torch_sparse.SparseTensor`` or a two-dimensional ``torch.sparse_csr`` tensor."""


def sparse_matrix(row: Tensor, col: Tensor, value: Tensor | None, shape: tuple[int, int]) -> SparseMatrix:
    """Build a sparse matrix of ``shape`` from coordinates.

    Args:
        row, col: int64 indices, each ``[E]``, in any order; a repeated pair is an error of the caller's.
        value: float weights ``[E]``, or ``None`` for ones.
        shape: number of rows and columns.

    Returns:
        A ``SparseTensor`` where torch-sparse is installed, a torch CSR tensor otherwise.

    Raises:
        ValueError: if an index lies outside ``shape``.
    """
    if row.numel():
        for name, index, size in (("row", row, shape[0]), ("column", col, shape[1])):
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= size:
                raise ValueError(f"{name} indices reach from {low} to {high}, outside a {shape[0]} x {shape[1]} matrix")
    order = torch.argsort(row * shape[1] + col)
    row, col = row[order], col[order]
    weights = torch.ones(row.numel(), device=row.device) if value is None else value[order]
    if WITH_TORCH_SPARSE:
        return SparseTensor(row=row, col=col, value=weights, sparse_sizes=shape, is_sorted=True)
    pointers = torch.zeros(shape[0] + 1, dtype=torch.int64, device=row.device)
    pointers[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    return torch.sparse_csr_tensor(pointers, col, weights, size=shape, check_invariants=False)


def csr_parts(matrix: SparseMatrix) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Row pointers, column indices, values and shape of a sparse matrix of either kind."""
    if isinstance(matrix, Tensor):
        csr = matrix if matrix.layout == torch.sparse_csr else matrix.to_sparse_csr()
        return csr.crow_indices(), csr.col_indices(), csr.values(), (csr.size(0), csr.size(1))
    pointers, col, value = matrix.csr()
    if value is None:
        value = torch.ones(col.numel(), device=col.device)
    return pointers, col, value, (matrix.size(0), matrix.size(1))


def to_scipy(matrix: SparseMatrix) -> csr_matrix:
    """The same matrix as a ``scipy.sparse.csr_matrix`` (on the CPU)."""
    from scipy.sparse import csr_matrix

    pointers, col, value, shape = csr_parts(matrix)
    return csr_matrix((value.cpu().numpy(), col.cpu().numpy(), pointers.cpu().numpy()), shape=shape)


def from_scipy(matrix: Any) -> SparseMatrix:
    """A ``SparseTensor`` (or torch CSR) from any scipy sparse matrix; explicit zeros are kept."""
    coo = matrix.tocoo()
    row = torch.from_numpy(coo.row.astype(np.int64))
    col = torch.from_numpy(coo.col.astype(np.int64))
    return sparse_matrix(row, col, torch.from_numpy(coo.data.astype(np.float32)), (coo.shape[0], coo.shape[1]))


def _product(matrix: SparseMatrix, x: Tensor) -> Tensor:
    """``matrix @ x`` without autograd: the one place where the SpMM is chosen.

    On a CPU a row of the product is a weighted bag of embeddings, for which PyTorch carries a generated kernel with
    prefetching: two to three times as fast as its CSR product and scipy's, five times as fast as torch-sparse's
    (``benchmarks/bench_graph.py`` measures them all).
    """
    pointers, col, value, shape = csr_parts(matrix)
    if x.dtype != value.dtype:
        value = value.to(x.dtype)
    if x.device.type == "cpu" and shape[0] and x.numel():
        return F.embedding_bag(
            col, x.contiguous(), pointers, mode="sum", per_sample_weights=value, include_last_offset=True
        )
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=False) @ x


class _SpMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        # Of what needs a gradient PyTorch would keep what its own backward pass wants.
        return _product(graph.matrix, x.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _SpMM.apply(grads[0], ctx.graph.t()), None


class Graph:
    r"""A weighted graph ready for products :math:`Y = A X`, with its transpose kept for the backward pass.

    Args:
        matrix: ``SparseTensor`` or torch CSR tensor ``[R, C]`` with float values.
        symmetric: promise that ``matrix`` equals its transpose, which then is not built.
    """

    def __init__(self, matrix: SparseMatrix, *, symmetric: bool = False, transpose: Graph | None = None) -> None:
        self.matrix = matrix
        self._transpose = self if symmetric else transpose

    @property
    def shape(self) -> tuple[int, int]:
        return csr_parts(self.matrix)[3]

    @property
    def num_edges(self) -> int:
        return csr_parts(self.matrix)[1].numel()

    @property
    def device(self) -> torch.device:
        return csr_parts(self.matrix)[1].device

    def t(self) -> Graph:
        """The transposed graph, built on the first call and kept."""
        if self._transpose is None:
            pointers, col, value, (rows, cols) = csr_parts(self.matrix)
            row = torch.repeat_interleave(torch.arange(rows, device=col.device), pointers.diff())
            self._transpose = Graph(sparse_matrix(col, row, value, (cols, rows)), transpose=self)
        return self._transpose

    def to(self, device: torch.device | str) -> Graph:
        """The same graph on another device."""
        if torch.device(device) == self.device:
            return self
        return Graph(self.matrix.to(device), symmetric=self._transpose is self)

    def __matmul__(self, x: Tensor) -> Tensor:
        """``A @ x`` for dense ``x`` of shape ``[C, d]``, differentiable in ``x``."""
        if x.size(0) != self.shape[1]:
            raise ValueError(f"a graph of shape {self.shape} cannot multiply a tensor of {x.size(0)} rows")
        return _SpMM.apply(x, self)

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"{type(self).__name__}({rows} x {cols}, num_edges={self.num_edges})"


def interaction_graph(interactions: Tensor, num_users: int, num_items: int) -> Graph:
    """The user-item matrix A ``[num_users, num_items]`` with a one for every interaction.

    Args:
        interactions: int64 ``[2, E]``, users above items, without duplicates (a split of
            :class:`~infodcl_geo.data.interactions.Interactions`).
    """
    return Graph(sparse_matrix(interactions[0], interactions[1], None, (num_users, num_items)))


def normalized_interactions(interactions: Tensor, num_users: int, num_items: int, *, smoothing: float = 0.0) -> Graph:
    r"""The normalised user-item matrix, for :math:`\rho = 0` that of InfoDCL eq. 16.

    .. math:: \tilde A_{ui} = \frac{A_{ui}}{\sqrt{(|N_u| + \rho |E| / M) (|N_i| + \rho |E| / N)}}

    Args and shapes as in :func:`interaction_graph`. Users and items without interactions have empty rows.

    Args:
        smoothing: :math:`\rho`, the share of the mean degree that is added to every degree. Where it is 0, each small
            component of the graph has a singular value of one, and pairs of few interactions weigh as much as well
            known ones.
    """
    users, items = interactions
    user_degree = torch.bincount(users, minlength=num_users).to(torch.float32)
    item_degree = torch.bincount(items, minlength=num_items).to(torch.float32)
    user_degree += smoothing * users.numel() / num_users
    item_degree += smoothing * items.numel() / num_items
    weights = (user_degree[users] * item_degree[items]).rsqrt()
    return Graph(sparse_matrix(users, items, weights, (num_users, num_items)))


def normalized_adjacency(interactions: Tensor, num_users: int, num_items: int) -> Graph:
    r"""The symmetric propagation matrix over users and items, normalised once.

    .. math::
        \tilde{\mathcal A} = D^{-1/2} \begin{pmatrix} 0 & A \\ A^\top & 0 \end{pmatrix} D^{-1/2}

    (LightGCN eq. 8; InfoDCL section 3.4). Users are rows ``0..num_users-1``, items follow.

    Args:
        interactions: int64 ``[2, E]``, users above items, without duplicates.

    Returns:
        A symmetric :class:`Graph` of ``num_users + num_items`` nodes.
    """
    users, items = interactions
    size = num_users + num_items
    nodes = items + num_users
    degree = torch.bincount(torch.cat([users, nodes]), minlength=size).to(torch.float32)
    weights = (degree[users] * degree[nodes]).rsqrt()
    matrix = sparse_matrix(
        torch.cat([users, nodes]), torch.cat([nodes, users]), torch.cat([weights, weights]), (size, size)
    )
    return Graph(matrix, symmetric=True)


def propagate(graph: Graph, x: Tensor, num_layers: int) -> Tensor:
    r"""LightGCN propagation: the mean of the layers, :math:`\frac{1}{K+1}\sum_{k=0}^{K} \tilde{\mathcal A}^k X`.

    LightGCN eq. 7 and 8 with :math:`\alpha_k = 1/(K+1)`.

    Args:
        graph: normalised square graph of ``n`` nodes.
        x: node embeddings ``[n, d]``.
        num_layers: ``K >= 0``; with 0 the input comes back.
    """
    if num_layers == 0:
        return x
    total = x
    for _ in range(num_layers):
        # Horner's rule, x + A (x + A (...)), holds one array beside x where a sum of layers holds three.
        total = (graph @ total).add_(x)
    return total.div_(num_layers + 1)
