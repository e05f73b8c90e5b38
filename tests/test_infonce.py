"""InfoNCE on the CPU: hand-computed values, the reference, gradients, options, shards, torch.compile."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.kernels import InfoNCEOptions, infonce, infonce_cpu, infonce_op, logsumexp_similarity, reference
from infodcl_geo.training.loop import matmul_precision

TINY = InfoNCEOptions(cpu_tile=48)  # many tiles both ways, and the exponentials recomputed for the candidates' gradient


def problem(
    anchors: int, candidates: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(anchors, d, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    y = torch.randn(candidates, d, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    return x, y, torch.randint(0, candidates, (anchors,), generator=generator)


def left_out(kind: str, anchors: int, candidates: int, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    if kind == "ids":
        ids = torch.randint(0, 5, (anchors + candidates,), generator=generator)
        return {"anchor_ids": ids[:anchors], "candidate_ids": ids[anchors:]}
    if kind == "candidate_ids":
        return {"candidate_ids": torch.randint(0, 5, (candidates,), generator=generator)}
    if kind == "anchor_ids":
        return {"anchor_ids": torch.randint(0, candidates, (anchors,), generator=generator)}
    if kind == "exclude":
        counts = torch.randint(0, 6, (anchors,), generator=generator)
        ptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return {"exclude": (ptr, torch.randint(0, candidates, (int(ptr[-1]),), generator=generator))}
    if kind == "log_q":
        return {"log_q": torch.randn(candidates, dtype=torch.float64, generator=generator)}
    return {}


KINDS = ["plain", "ids", "candidate_ids", "anchor_ids", "exclude", "log_q"]


# -- By hand -----------------------------------------------------------------------------------------------------------


def test_three_orthogonal_candidates() -> None:
    """Cosines 1, 0, 0 at tau = 0.5: the loss is log(e^2 + 2) - 2."""
    loss = infonce(torch.tensor([[3.0, 0.0, 0.0]]), 7.0 * torch.eye(3), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 2) - 2)


def test_dot_product_and_reductions() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    expected = [math.log(1 + math.e) - 1, math.log(1 + math.e**2)]
    p = torch.tensor([1, 0])
    each = infonce(x, y, p, 1.0, normalize=False, reduction="none")
    assert each.tolist() == pytest.approx(expected)
    assert infonce(x, y, p, 1.0, normalize=False, reduction="sum").item() == pytest.approx(sum(expected))
    assert infonce(x, y, p, 1.0, normalize=False).item() == pytest.approx(sum(expected) / 2)


def test_excluding_all_but_the_positive_leaves_no_loss() -> None:
    x, y, p = problem(3, 4, 5)
    everything = (torch.arange(4) * 4, torch.arange(4).repeat(3))
    loss = infonce(x, y, p, exclude=everything)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, (x, y)):
        assert gradient.abs().max() < 1e-12


def test_in_batch_counts_shared_positives_once() -> None:
    """Anchors 0 and 1 share a positive: for both only two candidates remain, for anchor 2 three."""
    x, y = torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    each = infonce(x, y, torch.tensor([0, 0, 2]), in_batch=True, reduction="none")
    assert each.tolist() == pytest.approx([math.log(2), math.log(2), math.log(3)])


def test_correction_by_sampling_probabilities() -> None:
    """With equal similarities the loss is -log(w_p / sum_j w_j) with w = 1 / q."""
    q = torch.tensor([0.5, 0.25, 0.125])
    loss = infonce(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([1]), log_q=q.log())
    assert loss.item() == pytest.approx(-math.log(4 / (2 + 4 + 8)))


# -- Against the reference ---------------------------------------------------------------------------------------------


def assert_same(ours: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    weight = torch.rand(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    for got, exact in zip(
        torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", [InfoNCEOptions(), TINY], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_matches_reference(kind: str, normalize: bool, in_batch: bool, reduction: Any, options: InfoNCEOptions) -> None:
    x, y, p = problem(13, 21, 6)
    arguments = left_out(kind, 13, 21) | {"normalize": normalize, "in_batch": in_batch, "reduction": reduction}
    assert_same(infonce(x, y, p, options=options, **arguments), reference.infonce(x, y, p, **arguments), (x, y))


@settings(deadline=None, max_examples=40)
@given(
    anchors=st.integers(1, 9),
    candidates=st.integers(1, 12),
    d=st.integers(1, 9),
    tile=st.integers(1, 200),
    temperature=st.sampled_from([0.005, 0.05, 0.5, 3.0]),
    kind=st.sampled_from(KINDS),
    normalize=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_tile(
    anchors: int,
    candidates: int,
    d: int,
    tile: int,
    temperature: float,
    kind: str,
    normalize: bool,
    reduction: Any,
    seed: int,
) -> None:
    x, y, p = problem(anchors, candidates, d, seed=seed)
    arguments = left_out(kind, anchors, candidates, seed) | {"normalize": normalize, "reduction": reduction}
    ours = infonce(x, y, p, temperature, options=InfoNCEOptions(cpu_tile=tile), **arguments)
    expected = reference.infonce(x, y, p, temperature, **arguments)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    exact = torch.autograd.grad(expected.sum(), (x, y))
    for got, wanted in zip(torch.autograd.grad(ours.sum(), (x, y)), exact, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("function", [infonce, reference.infonce], ids=["twin", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("arguments", [{}, {"normalize": False}, {"in_batch": True}, {"temperature": 0.01}], ids=str)
def test_gradcheck(function: Any, reduction: str, arguments: dict[str, Any]) -> None:
    x, y, p = problem(4, 7, 3)
    if "temperature" in arguments:  # well-separated optimum: finite differences need a moderate slope
        y = (0.2 * torch.eye(7, 3, dtype=torch.float64) + y.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: function(x, y, p, reduction=reduction, **arguments), (x, y))


@pytest.mark.parametrize("function", [logsumexp_similarity, reference.logsumexp_similarity], ids=["twin", "reference"])
def test_gradcheck_of_a_shard(function: Any) -> None:
    x, y, p = problem(4, 7, 3)
    arguments = left_out("exclude", 4, 12)
    assert torch.autograd.gradcheck(lambda x, y: function(x, y, positives=p, offset=2, **arguments), (x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("anchors", "candidates", "d"), [(1, 5, 16), (5, 63, 60), (63, 123, 64), (123, 2049, 60)])
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_as_accurate_as_eager(anchors: int, candidates: int, d: int, dtype: torch.dtype, temperature: float) -> None:
    """Error against the float64 truth at most that of eager PyTorch in the same type, plus a small constant."""
    x, y, p = problem(anchors, candidates, d, dtype)

    def run(function: Any, dtype: torch.dtype) -> list[Tensor]:
        a, b = x.detach().to(dtype).requires_grad_(), y.detach().to(dtype).requires_grad_()
        loss = function(a, b, p, temperature)
        return [part.double() for part in (loss.detach(), *torch.autograd.grad(loss, (a, b)))]

    small = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    exact, eager = run(reference.infonce, torch.float64), run(reference.infonce, dtype)
    for truth, plain, got in zip(exact, eager, run(infonce, dtype), strict=True):
        assert (got - truth).abs().max() <= (plain - truth).abs().max() + small * truth.abs().max()


# -- Behaviour ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [InfoNCEOptions(), TINY], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_subset_of_inputs_and_layouts(reduction: Any, options: InfoNCEOptions) -> None:
    x, y, p = problem(7, 11, 6, torch.float32)
    p[:4] = p[0]
    with torch.no_grad():
        y[6:] = y[:5]
    kwargs: dict[str, Any] = {"reduction": reduction, "options": options}
    both = torch.autograd.grad(infonce(x, y, p, **kwargs).sum(), (x, y))
    strided_x = torch.empty(6, 14).T[::2].copy_(x.detach()).requires_grad_()
    strided_y = torch.full((11, 13), math.nan)[:, ::2][:, :6].copy_(y.detach()).requires_grad_()
    only_x = torch.autograd.grad(infonce(strided_x, strided_y.detach(), p, **kwargs).sum(), strided_x)
    only_y = torch.autograd.grad(infonce(strided_x.detach(), strided_y, p, **kwargs).sum(), strided_y)
    torch.testing.assert_close((*only_x, *only_y), both)
    assert not infonce(x.detach(), y.detach(), p, **kwargs).requires_grad


def test_fresh_memory_may_hold_nan() -> None:
    x, y, p = problem(9, 33, 5, torch.float32)
    expected = torch.autograd.grad(infonce(x, y, p, options=TINY), (x, y))
    torch.use_deterministic_algorithms(True)  # fills every uninitialised tensor with NaN
    try:
        poisoned = torch.autograd.grad(infonce(x, y, p, options=TINY), (x, y))
    finally:
        torch.use_deterministic_algorithms(False)
    for got, wanted in zip(poisoned, expected, strict=True):
        assert torch.equal(got, wanted)


def test_zero_anchor_is_indifferent() -> None:
    """A zero vector has similarity 0 to everything, as with torch.nn.functional.normalize."""
    y = torch.randn(6, 4)
    assert infonce(torch.zeros(1, 4), y, torch.tensor([2])).item() == pytest.approx(math.log(6))


def test_huge_dot_products_stay_finite() -> None:
    x = torch.tensor([[1e3, 0.0]], requires_grad=True)
    y = torch.tensor([[1e3, 0.0], [-1e3, 0.0], [9.99e2, 0.0]], requires_grad=True)
    loss = infonce(x, y, torch.tensor([1]), 0.1, normalize=False)
    assert loss.item() == pytest.approx(2e7)
    gradient_x, gradient_y = torch.autograd.grad(loss, (x, y))
    torch.testing.assert_close(gradient_x, torch.tensor([[2e4, 0.0]]))
    torch.testing.assert_close(gradient_y, torch.tensor([[1e4, 0.0], [-1e4, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("kind", ["plain", "exclude", "anchor_ids"])
@pytest.mark.parametrize("normalize", [False, True])
def test_shards_combine_to_the_whole(normalize: bool, kind: str) -> None:
    x, y, p = problem(8, 20, 5)
    arguments = left_out(kind, 8, 20) | {"normalize": normalize}
    parts = [
        logsumexp_similarity(x, y[a:b], positives=p, offset=a, options=TINY, **arguments)
        for a, b in ((0, 3), (3, 4), (4, 20))
    ]
    u, v = (F.normalize(x), F.normalize(y)) if normalize else (x, y)
    sharded = torch.stack(parts).logsumexp(0) - (u * v[p]).sum(1) / 0.5
    assert_same(sharded, infonce(x, y, p, reduction="none", **arguments), (x, y))


def test_shard_with_nothing_left() -> None:
    x, y, _ = problem(2, 3, 4)
    everything = (torch.tensor([0, 3, 3]), torch.arange(3))
    value = logsumexp_similarity(x, y, exclude=everything)
    assert value[0] == -math.inf
    assert value[1].isfinite()
    for gradient in torch.autograd.grad(value[1], (x, y)):
        assert gradient.isfinite().all()


def test_gradient_scales_with_what_comes_back() -> None:
    x, y, p = problem(5, 9, 4)
    once = torch.autograd.grad(infonce(x, y, p), (x, y))
    thrice = torch.autograd.grad(-3.0 * infonce(x, y, p), (x, y))
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(-3.0 * a, b)


def test_autocast_like_types_return_their_own_gradients() -> None:
    x, y, p = problem(5, 9, 4, torch.bfloat16)
    loss = infonce(x, y, p)
    assert loss.dtype == torch.float32
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(loss, (x, y)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_torch_compile(reduction: Any) -> None:
    """One graph without breaks, the same numbers."""
    x, y, p = problem(6, 40, 5, torch.float32)

    def step(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
        return infonce(2.0 * x, y.sin(), p, reduction=reduction).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y, p), step(x, y, p))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x, y, p), (x, y)), torch.autograd.grad(step(x, y, p), (x, y))
    )


@pytest.mark.parametrize("uniform", [False, True])
def test_registered_op(uniform: bool) -> None:
    x, y, p = problem(6, 40, 5, torch.float32)
    arguments = (x, y, p, None, None, None, None, None, 0.5, True, True, uniform, True, True, InfoNCEOptions().flat())
    torch.library.opcheck(infonce_op.forward_op, arguments)


def test_no_array_of_all_logits() -> None:
    """No tensor that the computation makes comes near B x N entries."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, Tensor):
                    largest = max(largest, value.numel())
            return result

    x, y, p = problem(300, 5000, 8, torch.float32)
    options = InfoNCEOptions(cpu_tile=1 << 15)
    with Watch():
        for reduction in ("mean", "none"):
            infonce(x, y, p, reduction=reduction, options=options).sum().backward()  # type: ignore[arg-type]
    assert largest <= max(1 << 15, y.numel())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"reduction": "average"}, "reduction"),
        ({"positives": torch.zeros(3, dtype=torch.long)}, "positives"),
        ({"candidates": torch.zeros(9, 5)}, "anchors and candidates"),
        ({"candidates": torch.zeros(9, 4, dtype=torch.float64)}, "anchors and candidates"),
        ({"candidates": torch.zeros(0, 4)}, "no candidates"),
    ],
)
def test_impossible_arguments(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "anchors": torch.zeros(2, 4),
        "candidates": torch.zeros(9, 4),
        "positives": torch.zeros(2, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        infonce(**(arguments | change))


# -- bfloat16 products -------------------------------------------------------------------------------------------------


def loss_and_gradients(loss: Any, x: Tensor, y: Tensor, dtype: torch.dtype) -> list[Tensor]:
    a, b = (v.detach().to(dtype).requires_grad_() for v in (x, y))
    value = loss(a, b)
    return [part.double() for part in (value.detach(), *torch.autograd.grad(value.mean(), (a, b)))]


@pytest.mark.parametrize("options", [{}, {"cpu_tile": 2048}], ids=["one strip", "many tiles"])
@pytest.mark.parametrize("kind", ["plain", "exclude", "log_q"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_bfloat16_products_are_as_accurate_as_bfloat16_inputs(
    temperature: float, reduction: Any, kind: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error against float64 at most that of plain PyTorch in bfloat16, plus a small constant; yet not float32."""
    monkeypatch.setattr(infonce_cpu, "_multiplies_bfloat16", lambda: True)
    x, y, p = problem(63, 517, 60, torch.float32)
    arguments = left_out(kind, 63, 517) | {"temperature": temperature, "reduction": reduction}
    allowed = InfoNCEOptions(bfloat16=True, **options)
    exact = loss_and_gradients(lambda a, b: reference.infonce(a, b, p, **arguments), x, y, torch.float64)
    plain = loss_and_gradients(lambda a, b: reference.infonce(a, b, p, **arguments), x, y, torch.bfloat16)
    ours = loss_and_gradients(lambda a, b: infonce(a, b, p, options=allowed, **arguments), x, y, torch.float32)
    for got, coarse, wanted in zip(ours, plain, exact, strict=True):
        error = (got - wanted).abs().max()
        assert error <= (coarse - wanted).abs().max() + 1e-3 * wanted.abs().max()
        assert error > 1e-7 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_the_instructions_or_in_float64_nothing_changes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infonce_cpu, "_multiplies_bfloat16", lambda: dtype == torch.float64)
    x, y, p = problem(13, 40, 6, dtype)
    plain = infonce(x, y, p)
    allowed = infonce(x, y, p, options=InfoNCEOptions(bfloat16=True))
    assert torch.equal(plain, allowed)
    for one, other in zip(torch.autograd.grad(plain, (x, y)), torch.autograd.grad(allowed, (x, y)), strict=True):
        assert torch.equal(one, other)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="cpu_tile"):
        InfoNCEOptions(cpu_tile=0)


def test_precision_follows_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infonce_cpu, "_multiplies_bfloat16", lambda: True)
    x, y, p = problem(9, 20, 16, torch.float32)
    explicit = infonce(x, y, p, options=InfoNCEOptions(bfloat16=True))
    assert infonce(x, y, p) != explicit
    with matmul_precision("medium"):
        assert infonce(x, y, p) == explicit
        assert InfoNCEOptions().flat()[1]
        assert infonce(x, y, p, options=InfoNCEOptions(bfloat16=False)) != explicit
    with matmul_precision("high"):
        assert infonce(x, y, p) != explicit
        assert InfoNCEOptions().flat()[1]
    assert torch.get_float32_matmul_precision() == "highest"
    assert not InfoNCEOptions().flat()[1]
