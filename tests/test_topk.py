"""Top-k by inner product: against a sort of all scores, ties included, on both paths."""

from __future__ import annotations

import importlib
import math
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError, OptionError, ScoreError
from infodcl_geo.evaluation.ranking import rank_items
from infodcl_geo.kernels.ties import tie_order
from infodcl_geo.kernels.topk import top_k
from infodcl_geo.models.scoring import ExactScorer, UserRows, dot_scorer, with_popular_fallback

module = importlib.import_module("infodcl_geo.kernels.topk")
PATHS = ["plain", pytest.param("numba", marks=pytest.mark.skipif(find_spec("numba") is None, reason="no Numba"))]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    return str(request.param)


def brute_force(users: Tensor, items: Tensor, k: int, rows: Tensor, hidden: list[set[int]]) -> list[list[int]]:
    """Python's sort by (score descending, place ascending)."""
    scores = (users.double() @ items.double().T).tolist()
    lists = []
    for b, row in enumerate(rows.tolist()):
        places = tie_order(torch.tensor(row), torch.arange(len(items))).tolist()
        left = [i for i in range(len(items)) if i not in hidden[b]]
        left.sort(key=lambda i: (-scores[b][i], places[i]))
        lists.append((left + [-1] * k)[: min(k, len(items))])
    return lists


def listed(hidden: list[set[int]]) -> tuple[Tensor, Tensor, Tensor]:
    ends = torch.tensor([0, *(len(one) for one in hidden)]).cumsum(0)
    return ends[:-1], ends[1:], torch.tensor([i for one in hidden for i in sorted(one)], dtype=torch.int64)


def integers(count: int, d: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Embeddings whose products are exact and often equal."""
    return torch.randint(-1, 2, (count, d), generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("count", "total", "d", "k"), [(7, 50, 3, 5), (300, 70, 2, 20), (3, 9000, 4, 34), (5, 4, 3, 9)]
)
def test_is_the_head_of_a_sort_with_many_ties(
    path: str, count: int, total: int, d: int, k: int, dtype: torch.dtype
) -> None:
    users, items = integers(count, d, 1, dtype), integers(total, d, 2, dtype)
    rows = torch.randperm(10_000, generator=torch.Generator().manual_seed(3))[:count]
    hidden = [set(range(b % 4, total, 1 + b % 5)) for b in range(count)]
    found, values = top_k(users, items, k, rows=rows, seen=listed(hidden))
    assert found.tolist() == brute_force(users, items, k, rows, hidden)
    exact = torch.where(found >= 0, (users @ items.T).gather(1, found.clamp(min=0)), -math.inf)
    assert torch.equal(values, exact)
    assert not (values.signbit() & (values == 0)).any()


@given(
    count=st.integers(1, 12), total=st.integers(1, 60), d=st.integers(1, 5), k=st.integers(1, 70),
    share=st.floats(0, 1), seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_size(count: int, total: int, d: int, k: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = integers(count, d, seed, torch.float32), integers(total, d, seed + 1, torch.float32)
    left_out = torch.rand(count, total, generator=generator) < share
    hidden = [set(row.nonzero()[:, 0].tolist()) for row in left_out]
    found, _ = top_k(users, items, k, seen=listed(hidden))
    assert found.tolist() == brute_force(users, items, k, torch.arange(count), hidden)


def test_real_numbers_and_several_tiles(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", 1000)
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 16, generator=generator, dtype=torch.float64) for n in (530, 9001))
    found, values = top_k(users, items, 11)
    wanted, order = (users @ items.T).sort(dim=1, descending=True)
    assert torch.equal(found, order[:, :11])
    torch.testing.assert_close(values, wanted[:, :11])


@pytest.mark.skipif(find_spec("numba") is None, reason="no Numba")
def test_the_number_of_threads_changes_nothing() -> None:
    users, items = integers(500, 4, 1, torch.float32), integers(5000, 4, 2, torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = top_k(users, items, 20)
    torch.set_num_threads(3)
    other = top_k(users, items, 20)
    torch.set_num_threads(threads)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_a_longer_list_begins_with_the_shorter_one(path: str) -> None:
    users, items = integers(20, 3, 1, torch.float32), integers(300, 3, 2, torch.float32)
    assert torch.equal(top_k(users, items, 50)[0][:, :7], top_k(users, items, 7)[0])


def test_half_types_and_layouts(path: str) -> None:
    users, items = integers(20, 3, 1, torch.float32), integers(300, 3, 2, torch.float32)
    wanted = top_k(users, items, 7)[0]
    assert torch.equal(top_k(users.bfloat16(), items.bfloat16(), 7)[0], wanted)
    assert torch.equal(top_k(users.T.contiguous().T, items.repeat(1, 2)[:, :3], 7)[0], wanted)


def test_nobody_and_nothing(path: str) -> None:
    assert top_k(torch.ones(0, 3), torch.ones(5, 3), 2)[0].shape == (0, 2)
    assert top_k(torch.ones(4, 3), torch.ones(0, 3), 2)[0].shape == (4, 0)
    everything = listed([{0, 1, 2}])
    found, values = top_k(torch.ones(1, 2), torch.ones(3, 2), 2, seen=everything)
    assert found.tolist() == [[-1, -1]]
    assert values.tolist() == [[-math.inf, -math.inf]]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 3e38])
def test_refuses_what_cannot_be_ranked(path: str, wrong: float) -> None:
    items = torch.ones(5, 3)
    items[2, 1] = wrong
    with pytest.raises(InfodclGeoError, match="NaN or infinite"):
        top_k(torch.ones(2, 3), items, 2)
    with pytest.raises(OptionError, match="k must be"):
        top_k(torch.ones(2, 3), torch.ones(5, 3), 0)
    with pytest.raises(InfodclGeoError, match="one type"):
        top_k(torch.ones(2, 3), torch.ones(5, 4), 1)
    with pytest.raises(InfodclGeoError, match="start"):
        top_k(torch.ones(2, 3), torch.ones(5, 3), 1, seen=(torch.zeros(2), torch.zeros(2), torch.zeros(0)))


def test_what_cannot_reach_a_list_is_left_out_of_no_list(path: str) -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (700, 9001))
    items *= torch.logspace(0, -4, 9001, dtype=torch.float64)[torch.randperm(9001, generator=generator), None]
    found, _ = top_k(users, items, 20)
    assert torch.equal(found, (users @ items.T).sort(dim=1, descending=True).indices[:, :20])
    # Nor where all scores are negative, and the shortest are the best.
    found, _ = top_k(-users[:, :1].abs(), items[:, :1].abs(), 20)
    assert torch.equal(found, items[:, 0].abs().argsort()[:20].expand(700, -1))


@given(d=st.integers(1, 6), k=st.integers(1, 40), cold=st.integers(0, 9), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_lists_of_a_ranking_are_those_of_the_matrix_of_scores(d: int, k: int, cold: int, seed: int) -> None:
    """Nearly equal and equal scores, users of whom nothing is known, and hidden items of two kinds."""
    users = integers(30, d, seed, torch.float32) / 3
    items = integers(200, d, seed + 1, torch.float32) * torch.tensor([1.0, 1 + 2**-23]).repeat(100)[:, None]
    pairs = torch.stack([torch.arange(cold, 30).repeat(4), torch.arange(4 * (30 - cold)) * 7 % 200])
    scorer = dot_scorer(users, items)
    served = with_popular_fallback(
        scorer, torch.bincount(pairs[0], minlength=30), torch.bincount(pairs[1], minlength=200)
    )

    class Plain:
        """The same without factors, so that all is ranked from scores."""

        def __init__(self, inner: ExactScorer) -> None:
            self.inner = inner
            self.rounding, self.exact = inner.rounding, inner.exact

        def __call__(self, users: Tensor, window: slice) -> Tensor:
            return self.inner(users, window)

    sizes = {"num_users": 30, "num_items": 200}
    for one in (scorer, served):
        for seen in ((), (pairs,), _Reversed(UserRows(pairs, 30, 200))):
            found, wanted = (rank_items(s, torch.arange(30), k, seen=seen, **sizes) for s in (one, Plain(one)))
            assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1], wanted[1])


class _Reversed:
    """Hidden items in another order than that of :class:`UserRows`."""

    def __init__(self, rows: UserRows) -> None:
        self.rows = rows

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        position, item = self.rows.pairs(users)
        return position.flip(0), item.flip(0)


def test_ranking_says_which_score_is_no_number() -> None:
    items = torch.ones(5, 2)
    items[3] = math.nan
    with pytest.raises(ScoreError, match="item row 3"):
        rank_items(dot_scorer(torch.ones(2, 2), items), torch.arange(2), 2, num_users=2, num_items=5)
