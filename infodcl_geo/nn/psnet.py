"""The Preference Signal Network: Gaussian noise and metadata become informative noise (InfoDCL section 3.1)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from infodcl_geo.kernels import PSNetWeights, batched_svd, psnet, psnet_diffuse

Basis = Literal["population", "batch", "item"]


class SpectralFeatures(NamedTuple):
    """Input of the three feature networks of eq. 2; a single row is shared by the whole batch."""

    left: Tensor
    """``[B, p_u]``"""
    values: Tensor
    """``[B or 1, p_s]``"""
    right: Tensor
    """``[B or 1, p_v]``"""


def fix_signs(right: Tensor) -> Tensor:
    """Signs ``[..., k]`` that make each column's largest entry (by magnitude) in ``right`` ``[..., n, k]`` positive."""
    largest = right.abs().argmax(-2, keepdim=True)
    return torch.where(right.gather(-2, largest).squeeze(-2) < 0, -1.0, 1.0).to(right.dtype)


def population_basis(metadata: Tensor) -> tuple[Tensor, Tensor]:
    r"""Right singular vectors and values of :math:`Y = \epsilon + M` in the limit of an endless batch.

    With :math:`\epsilon \sim \mathcal N(0, I)` and metadata rows m drawn at random,
    :math:`\frac1B \mathbb E[Y^\top Y] = I + \mathbb E[m m^\top]`: the right singular vectors are the principal axes
    of the metadata (not centred) and :math:`\sigma_k / \sqrt B = \sqrt{1 + \lambda_k}`.

    Args:
        metadata: ``[N, D]``.

    Returns:
        :math:`\sigma / \sqrt B` ``[D]``, falling, and V ``[D, D]`` with a vector in each column, signs fixed
        (the largest entry of each positive).
    """
    second_moment = (metadata.T.double() @ metadata.double()) / metadata.size(0)
    eigenvalues, vectors = torch.linalg.eigh(second_moment)
    vectors = vectors.flip(-1)
    values = (1 + eigenvalues.flip(-1).clamp(min=0)).sqrt()
    return values.to(metadata.dtype), (vectors * fix_signs(vectors)).to(metadata.dtype)


def batch_basis(y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Right singular vectors and values of a batch, by its Gram matrix; normalised like :func:`population_basis`.

    Args:
        y: ``[B, D]``.

    Returns:
        :math:`\sigma / \sqrt B` ``[D]`` and V ``[D, D]``.
    """
    eigenvalues, vectors = torch.linalg.eigh(y.T @ y / y.size(0))
    vectors = vectors.flip(-1)
    return eigenvalues.flip(-1).clamp(min=0).sqrt(), vectors * fix_signs(vectors)


def item_shape(dim: int) -> tuple[int, int]:
    """The most nearly square ``(rows, columns)`` with ``rows * columns == dim`` and ``rows <= columns``."""
    rows = next(r for r in range(int(dim**0.5), 0, -1) if dim % r == 0)
    return rows, dim // rows


class PSNet(nn.Module):
    r"""Informative noise from Gaussian noise and metadata (InfoDCL eq. 1 to 8).

    With :math:`y = \epsilon + m`, its singular vectors and values :math:`y = U \Sigma V^\top`, and
    :math:`\varphi(m)` a linear embedding of the metadata:

    .. math::
        \mathcal S &= y + \tanh(\alpha) \odot
            \Phi\big([\text{MLP}_u(U) \,\|\, \text{MLP}_v(V) \,\|\, \text{MLP}_s(\Sigma)]\big) \\
        \mathcal C &= \epsilon + \sigma(\rho)\, \text{LayerNorm}(\Psi(\epsilon + \varphi(m))) \\
        \epsilon^{(m)} &= \mathcal S + \eta_0\, \mathcal C + \sigma(\eta_1 - 1)\, \varphi(m)

    The paper leaves open which matrix has the SVD; ``basis`` chooses (vectors' signs are fixed in all three):

    - ``population``: the metadata's principal axes V, found once by :meth:`fit`. U is
      :math:`y V \operatorname{diag}(1/\sigma)`, the first vector and the values are shared. No SVD in a step.
    - ``batch``: the SVD of the batch's matrix ``[B, D]``, as the authors compute it; its limit for an endless batch is
      ``population``. Depends on which items share the batch.
    - ``item``: one SVD per row, of y reshaped to the most nearly square matrix (8 x 8 for D = 64).

    Values and U are scaled by :math:`\sqrt B` so that ``batch`` does not depend on B. The gradient with respect to
    the metadata flows through the decomposition for ``item`` and ``batch`` when the metadata requires it.

    Args:
        dim: size D of noise and metadata.
        basis: see above.
        spectral: with ``False``, :math:`\mathcal S` is dropped (ablation "w/o SR"; then :math:`\eta_0` starts at 1).
        contextual: with ``False``, :math:`\eta_0\,\mathcal C` is dropped (ablation "w/o CR").
        gate: weight of the residual: ``"paper"`` :math:`\sigma(\eta_1 - 1)`, ``"signed"``
            :math:`2\sigma(\eta_1) - 1` as in the authors' program.
        hidden: width of the feature networks; ``dim`` by default.

    Raises:
        ValueError: for an unknown basis or gate, or with both terms dropped.
    """

    population_values: Tensor
    population_vectors: Tensor

    def __init__(
        self,
        dim: int,
        *,
        basis: Basis = "population",
        spectral: bool = True,
        contextual: bool = True,
        gate: Literal["paper", "signed"] = "paper",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if basis not in ("population", "batch", "item"):
            raise ValueError(f"basis must be 'population', 'batch' or 'item', not {basis!r}")
        if gate not in ("paper", "signed"):
            raise ValueError(f"gate must be 'paper' or 'signed', not {gate!r}")
        if not spectral and not contextual:
            raise ValueError(
                "without both spectral rectification and contextual re-encoding no noise is left: "
                "train without PSNet instead"
            )
        self.dim, self.basis, self.spectral, self.contextual, self.gate = dim, basis, spectral, contextual, gate
        rows, columns = item_shape(dim)
        left, values, right = (rows * rows, rows, columns * rows) if basis == "item" else (dim, dim, dim)
        hidden = dim if hidden is None else hidden
        # Ablations keep every parameter, so that all variants share one layout of weights.
        self.metadata_embedding = nn.Linear(dim, dim)  # varphi
        self.left_in, self.left_out = nn.Linear(left, hidden), nn.Linear(hidden, dim)
        self.values_in, self.values_out = nn.Linear(values, hidden), nn.Linear(hidden, dim)
        self.right_in, self.right_out = nn.Linear(right, hidden), nn.Linear(hidden, dim)
        self.phi_in, self.phi_out = nn.Linear(3 * dim, hidden), nn.Linear(hidden, dim)
        self.alpha = nn.Parameter(torch.empty(dim))
        self.psi = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.rho = nn.Parameter(torch.empty(()))
        self.eta0 = nn.Parameter(torch.empty(()))
        self.eta1 = nn.Parameter(torch.empty(()))
        self.register_buffer("population_values", torch.ones(dim))
        self.register_buffer("population_vectors", torch.eye(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights, in place."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
        with torch.no_grad():
            self.alpha.zero_()
            self.rho.zero_()
            # Alone, the re-encoding carries the noise; beside the rectification it starts as a silent correction.
            self.eta0.fill_(0.0 if self.spectral else 1.0)
            self.eta1.zero_()

    def weights(self) -> PSNetWeights:
        """The parameters in the order of the fused operation."""
        layers = [self.left_in, self.left_out, self.values_in, self.values_out, self.right_in, self.right_out]
        layers += [self.phi_in, self.phi_out]
        flat = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        flat += [self.alpha, self.psi.weight, self.psi.bias, self.norm.weight, self.norm.bias, self.rho, self.eta0]
        return PSNetWeights(*flat)

    @torch.no_grad()
    def fit(self, metadata: Tensor) -> PSNet:
        """Compute the ``population`` basis of ``metadata`` ``[N, D]``; the other bases need no fit."""
        values, vectors = population_basis(metadata)
        self.population_values.copy_(values)
        self.population_vectors.copy_(vectors)
        return self

    def features(self, y: Tensor) -> SpectralFeatures:
        """Singular vectors and values of ``y`` ``[B, D]`` in the chosen basis (eq. 1)."""
        if self.basis == "item":
            rows, columns = item_shape(self.dim)
            left, values, right = batched_svd(y.view(-1, rows, columns))
            return SpectralFeatures(left.flatten(1), values, right.flatten(1))
        if self.basis == "batch":
            values, vectors = batch_basis(y)
        else:
            values, vectors = self.population_values, self.population_vectors
        scale = values.clamp(min=torch.finfo(values.dtype).eps)
        return SpectralFeatures(y @ (vectors / scale), values[None], vectors[:, 0][None])

    def forward(self, noise: Tensor, metadata: Tensor) -> Tensor:
        """Informative noise ``[B, D]`` from Gaussian ``noise`` and ``metadata``, both ``[B, D]``."""
        return psnet(*self._inputs(noise, metadata), spectral=self.spectral, contextual=self.contextual)

    def diffuse(self, noise: Tensor, metadata: Tensor, e: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        r"""Informative noise as :meth:`forward` gives it, and in the same operation the forward process (eq. 9).

        Args:
            noise, metadata: ``[B, D]``.
            e: embeddings to diffuse ``[B, D]``.
            alpha_bar: signal level :math:`\bar\alpha_t` of each row's step, ``[B]``.

        Returns:
            The noise and :math:`z_t = \sqrt{\bar\alpha_t}\, e + \sqrt{1-\bar\alpha_t}\, \epsilon^{(m)}`,
            both ``[B, D]``.
        """
        return psnet_diffuse(
            *self._inputs(noise, metadata), e, alpha_bar, spectral=self.spectral, contextual=self.contextual
        )

    def _inputs(
        self, noise: Tensor, metadata: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, PSNetWeights, Tensor]:
        """The positional arguments of the fused operations."""
        embedded = self.metadata_embedding(metadata)
        # Without the rectification the operation does not read them.
        features = self.features(noise + metadata) if self.spectral else SpectralFeatures(noise, noise, noise)
        gate = torch.sigmoid(self.eta1 - 1) if self.gate == "paper" else 2 * torch.sigmoid(self.eta1) - 1
        return noise, metadata, embedded, *features, self.weights(), gate

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, basis={self.basis!r}, spectral={self.spectral}, "
            f"contextual={self.contextual}, gate={self.gate!r}"
        )
