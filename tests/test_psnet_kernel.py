"""PSNet's fused operation and its reference: a case computed by hand, gradients, shared rows, ablations."""

from __future__ import annotations

import math
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from infodcl_geo.kernels import PSNetWeights, psnet, psnet_diffuse
from infodcl_geo.kernels.reference_psnet import psnet_diffuse_reference, psnet_reference


class Problem(NamedTuple):
    """Arguments of ``psnet_diffuse`` in order, all tensors leaves that require grad, ``alpha_bar`` aside."""

    inputs: list[Tensor]
    weights: PSNetWeights
    gate: Tensor
    e: Tensor
    alpha_bar: Tensor

    def arguments(self) -> tuple:
        return *self.inputs, self.weights, self.gate, self.e, self.alpha_bar

    def leaves(self) -> list[Tensor]:
        return [*self.inputs, *self.weights, self.gate, self.e]

    def to(self, dtype: torch.dtype) -> Problem:
        def leaf(x: Tensor) -> Tensor:
            return x.detach().to(dtype).requires_grad_(x.requires_grad)

        return Problem(
            [leaf(x) for x in self.inputs],
            PSNetWeights(*(leaf(x) for x in self.weights)),
            leaf(self.gate),
            leaf(self.e),
            leaf(self.alpha_bar),
        )


LEAVES = ["eps", "m", "phi_m", "u", "s", "v", *PSNetWeights._fields, "gate", "e"]


def problem(
    batch: int,
    d: int,
    hidden: int | None = None,
    sizes: tuple[int, int, int] | None = None,
    shared: str = "",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    """Random arguments of natural magnitude; the features named in ``shared`` have one row."""
    generator = torch.Generator().manual_seed(seed)
    hidden = d if hidden is None else hidden
    sizes = (d, d, d) if sizes is None else sizes

    def leaf(*shape: int, scale: float = 1.0) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return x.to(dtype).requires_grad_()

    def layer(into: int, out: int) -> list[Tensor]:
        return [leaf(out, into, scale=into**-0.5), leaf(out, scale=0.3)]

    weights = [x for size in sizes for x in (*layer(size, hidden), *layer(hidden, d))]
    weights += [*layer(3 * d, hidden), *layer(hidden, d), leaf(d), *layer(d, d), leaf(d), leaf(d), leaf(), leaf()]
    rows = [1 if name in shared else batch for name in "usv"]
    inputs = [leaf(batch, d) for _ in range(3)] + [leaf(r, p) for r, p in zip(rows, sizes, strict=True)]
    alpha_bar = torch.rand(batch, generator=generator, dtype=torch.float64).to(dtype)
    return Problem(inputs, PSNetWeights(*weights), leaf(), leaf(batch, d), alpha_bar)


def outputs_and_gradients(function, p: Problem, seed: int = 5, **options: object) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Noise, z_t and the gradients of a random combination of the two, by name; what is unused is absent."""
    noise, z = function(*p.arguments(), **options)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(noise.shape, generator=generator, dtype=torch.float64).to(noise) for _ in range(2)]
    wanted = [(name, x) for name, x in zip(LEAVES, p.leaves(), strict=True) if x.requires_grad]
    gradients = torch.autograd.grad(
        (noise * weights[0] + z * weights[1]).sum(), [x for _, x in wanted], allow_unused=True
    )
    found = {"noise": noise.detach(), "z": z.detach()}
    found.update({name: g for (name, _), g in zip(wanted, gradients, strict=True) if g is not None})
    return found


def by_hand() -> tuple[Problem, list[float], list[float]]:
    """Numbers for which every unit is far on silu's linear side, so that all can be worked out on paper."""
    t = lambda *x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    weights = PSNetWeights(
        u_in=t([1.0], [2.0]), u_in_bias=t(0.0, -40.0), u_out=t([1.0, 0.0], [0.0, 2.0]), u_out_bias=t(1.0, 2.0),
        s_in=t([1.0], [1.0]), s_in_bias=t(0.0, 0.0), s_out=t([1.0, 1.0], [1.0, -1.0]), s_out_bias=t(0.0, 3.0),
        v_in=t([2.0], [3.0]), v_in_bias=t(0.0, 0.0), v_out=t([0.0, 1.0], [1.0, 0.0]), v_out_bias=t(0.0, 0.0),
        phi_in=t([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0, 0.0, -30.0]), phi_in_bias=t(-1.0, 8.0),
        phi_out=t([1.0, 0.0], [1.0, 1.0]), phi_out_bias=t(0.0, -40.0),
        alpha=t(math.atanh(0.5), math.atanh(-0.25)), psi=t([0.0, 1.0], [1.0, 0.0]), psi_bias=t(10.0, 0.0),
        norm_weight=t(2.0, 3.0), norm_bias=t(10.0, 20.0), rho=torch.tensor(0.0).double(),
        eta0=torch.tensor(2.0).double(),
    )  # fmt: skip
    eps, m, phi_m, e = t([1.0, -1.0]), t([10.0, 20.0]), t([4.0, 2.0]), t([3.0, 4.0])
    # u: silu(40, 40) -> (41, 82); v: silu(40, 60) -> (60, 40); s: silu(50, 50) -> (100, 3)
    # Phi: silu(41 + 40 - 1, 82 + 60 - 90 + 8) = (80, 60) -> (80, 100); S = (11, 19) + (0.5, -0.25) * (80, 100)
    spectral = [51.0, -6.0]
    # Psi(5, 1) = (11, 5), normalised (1, -1), h = (12, 17); C = (1, -1) + h / 2
    contextual = [7.0, 7.5]
    p = Problem([eps, m, phi_m, t([40.0]), t([50.0]), t([20.0])], weights, torch.tensor(0.25).double(), e, t(0.36))
    return p, spectral, contextual


@pytest.mark.parametrize("function", [psnet_diffuse_reference, psnet_diffuse])
@pytest.mark.parametrize(("spectral", "contextual"), [(True, True), (True, False), (False, True)])
def test_equations_by_hand(function, spectral: bool, contextual: bool) -> None:  # type: ignore[no-untyped-def]
    p, s, c = by_hand()
    noise, z = function(*p.arguments(), spectral=spectral, contextual=contextual, layer_norm_eps=0.0)
    expected = torch.tensor([[1.0, 0.5]], dtype=torch.float64)  # 0.25 phi_m
    expected = expected + spectral * torch.tensor(s) + contextual * 2 * torch.tensor(c)
    torch.testing.assert_close(noise, expected)
    torch.testing.assert_close(z, 0.6 * p.e + 0.8 * expected)
    if spectral and contextual:
        torch.testing.assert_close(noise, torch.tensor([[66.0, 9.5]], dtype=torch.float64))
        torch.testing.assert_close(z, torch.tensor([[54.6, 10.0]], dtype=torch.float64))


def test_psnet_is_the_noise_of_psnet_diffuse() -> None:
    p = problem(7, 6)
    noise, _ = psnet_diffuse(*p.arguments())
    assert torch.equal(psnet(*p.inputs, p.weights, p.gate), noise)
    torch.testing.assert_close(noise, psnet_reference(*p.inputs, p.weights, p.gate))


@pytest.mark.parametrize("function", [psnet_diffuse_reference, psnet_diffuse])
@pytest.mark.parametrize("shared", ["", "sv", "usv"])
@pytest.mark.parametrize(("spectral", "contextual"), [(True, True), (True, False), (False, True)])
def test_gradcheck(function, shared: str, spectral: bool, contextual: bool) -> None:  # type: ignore[no-untyped-def]
    # More rows than columns: the products of two layers' weights are formed.
    p = problem(4, 3, 2, (3, 2, 4), shared)

    def run(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        inputs, rest = leaves[:6], leaves[6:]
        return function(
            *inputs, PSNetWeights(*rest[:-2]), *rest[-2:], p.alpha_bar, spectral=spectral, contextual=contextual
        )

    assert torch.autograd.gradcheck(run, p.leaves())


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 9), d=st.integers(1, 9), hidden=st.integers(1, 9),
    sizes=st.tuples(*[st.integers(1, 9)] * 3), shared=st.sampled_from(["", "u", "s", "v", "sv", "usv"]),
    spectral=st.booleans(), contextual=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_the_reference(
    batch: int,
    d: int,
    hidden: int,
    sizes: tuple[int, int, int],
    shared: str,
    spectral: bool,
    contextual: bool,
    seed: int,
) -> None:
    p = problem(batch, d, hidden, sizes, shared, seed=seed)
    options = {"spectral": spectral, "contextual": contextual}
    actual = outputs_and_gradients(psnet_diffuse, p, **options)
    expected = outputs_and_gradients(psnet_diffuse_reference, p, **options)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def compare(actual: dict[str, Tensor], eager: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    """Errors against the truth at most twice eager PyTorch's in the same type, plus a small constant (a rounding)."""
    assert actual.keys() == eager.keys() == truth.keys()
    for name, value in actual.items():
        exact = truth[name].double()
        assert value.dtype == eager[name].dtype, name
        error = (value.double() - exact).abs().max().item()
        small = 2e-6 if value.dtype.itemsize > 2 else torch.finfo(value.dtype).eps
        allowed = 2 * (eager[name].double() - exact).abs().max().item() + small * (1 + exact.abs().max().item())
        assert error <= allowed, f"{name}: {error} > {allowed}"


@pytest.mark.parametrize("batch", [1, 5, 63, 123, 2049])
@pytest.mark.parametrize("shared", ["", "sv"])
def test_is_as_exact_as_eager_in_float32(batch: int, shared: str) -> None:
    p = problem(batch, 60, sizes=(60, 60, 60) if shared else (36, 6, 100), shared=shared, dtype=torch.float32)
    compare(
        outputs_and_gradients(psnet_diffuse, p),
        outputs_and_gradients(psnet_diffuse_reference, p),
        outputs_and_gradients(psnet_diffuse_reference, p.to(torch.float64)),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shared", ["", "sv"])
@pytest.mark.parametrize("batch", [5, 123])
def test_is_as_exact_as_eager_in_half_types(batch: int, shared: str, dtype: torch.dtype) -> None:
    """The truth is what the rounded inputs give in float64."""
    p = problem(batch, 60, sizes=(60, 60, 60) if shared else (36, 6, 100), shared=shared, dtype=dtype)
    compare(
        outputs_and_gradients(psnet_diffuse, p),
        outputs_and_gradients(psnet_diffuse_reference, p),
        outputs_and_gradients(psnet_diffuse_reference, p.to(torch.float64)),
    )


def test_equal_rows_give_equal_noise() -> None:
    p = problem(64, 16)
    inputs = [x.detach()[:1].expand(64, -1) for x in p.inputs]
    noise = psnet(*inputs, p.weights, p.gate)  # type: ignore[misc]
    torch.testing.assert_close(noise, noise[:1].expand(64, -1), rtol=0, atol=1e-12)


def test_inputs_inside_buffers_of_nan() -> None:
    p = problem(9, 6)

    def buried(x: Tensor) -> Tensor:
        buffer = torch.full((2 * x.shape[0] + 1, 3 * x.shape[1] + 1), math.nan, dtype=x.dtype)
        view = buffer[1::2, 1::3]
        view.copy_(x.detach())
        return view

    noise, z = psnet_diffuse(
        *(buried(x) for x in p.inputs), p.weights, p.gate, buried(p.e), buried(p.alpha_bar[:, None])[:, 0]
    )
    expected = psnet_diffuse(*p.arguments())
    assert torch.equal(noise, expected[0])
    assert torch.equal(z, expected[1])


@pytest.mark.parametrize("kept", [["alpha"], ["u_in", "gate"], ["eps", "e"], ["rho", "eta0", "v"]])
def test_subset_of_inputs_that_require_grad(kept: list[str]) -> None:
    p = problem(6, 5)
    everything = outputs_and_gradients(psnet_diffuse, p)
    for name, leaf in zip(LEAVES, p.leaves(), strict=True):
        leaf.requires_grad_(name in kept)
    some = outputs_and_gradients(psnet_diffuse, p)
    assert set(some) == {"noise", "z", *kept}
    for name in kept:
        torch.testing.assert_close(some[name], everything[name])


def test_refuses_shapes_that_do_not_fit() -> None:
    p = problem(4, 6)
    eps, m, phi_m, u, s, v = p.inputs
    with pytest.raises(ValueError, match="eps, m and phi_m"):
        psnet(eps, m[:3], phi_m, u, s, v, p.weights, p.gate)
    with pytest.raises(ValueError, match=r"u must be \[4 or 1, 6\]"):
        psnet(eps, m, phi_m, u[:3], s, v, p.weights, p.gate)
    with pytest.raises(ValueError, match=r"v must be \[4 or 1, 6\]"):
        psnet(eps, m, phi_m, u, s, v[:, :5], p.weights, p.gate)
    with pytest.raises(ValueError, match="alpha_bar"):
        psnet_diffuse(*p.inputs, p.weights, p.gate, p.e, p.alpha_bar[:3])


def test_compiles_as_one_graph() -> None:
    p = problem(8, 6, shared="sv")
    compiled = torch.compile(psnet_diffuse, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(*p.arguments()), psnet_diffuse(*p.arguments()), strict=True):
        torch.testing.assert_close(one, other)
