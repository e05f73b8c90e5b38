"""Theorem A.1 of InfoDCL, checked: ``python examples/theory_renoising.py``.

One step of DDIM from T to T - k with guidance w_l and one back with w_w leave v_T + kappa g_s, but for an error that
the theorem drops. Measures it as k grows, for a predictor known in closed form and for a trained SimDiff, and draws
``renoising.png`` (needs the extra ``plot``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from infodcl_geo import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.experiment import fit
from infodcl_geo.nn import alpha_bar

Predictor = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # the noise in v at step t, with the condition and without


def levels(schedule: str, steps: int) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t of eq. 18, ``[T + 1]``."""
    bar = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar(schedule, steps)])  # type: ignore[arg-type]
    return bar.sqrt(), (1 - bar).sqrt()


def renoise(v: Tensor, predict: Predictor, a: Tensor, s: Tensor, k: int, w: tuple[float, float]) -> list[Tensor]:
    """v'_T by eq. 22 and 23, what eq. 20 says it is, and v_{T-k}."""
    end = len(a) - 1

    def move(x: Tensor, source: Tensor, at: int, weight: float, t: int, to: int) -> Tensor:
        conditional, free = predict(source, at)
        noise = (1 + weight) * conditional - weight * free  # eq. 25
        return a[to] / a[t] * (x - s[t] * noise) + s[to] * noise

    back = move(v, v, end, w[0], end, end - k)
    again = move(back, back, end - k, w[1], end - k, end)
    conditional, free = predict(move(v, v, end, w[0], end, end - k // 2), end - k // 2)
    kappa = (w[0] - w[1]) * (a[end] * s[end - k] - a[end - k] * s[end]) / a[end - k]
    return [again, v + kappa * (conditional - free), back]


def gaussian(a: Tensor, s: Tensor, dim: int = 16) -> Predictor:
    """The best predictor where items are N(m, C) given the condition, and N(0, C + 1/2) without it."""
    spread, mean = torch.linspace(0.2, 1.5, dim).double(), torch.linspace(-1, 1, dim).double()
    variance = [lambda t, extra=extra: a[t] ** 2 * (spread + extra) + s[t] ** 2 for extra in (0.0, 0.5)]
    return lambda v, t: (s[t] * (v - a[t] * mean) / variance[0](t), s[t] * v / variance[1](t))


def errors(predict: Predictor, v: Tensor, a: Tensor, s: Tensor, w: tuple[float, float]) -> list[list[float]]:
    """k, the length of kappa g_s, the error of eq. 20, and the pace of eq. 19: means over the rows of v, k doubling."""
    rows = []
    for k in (2**power for power in range(1, 8) if 2**power <= (len(a) - 1) // 4):
        exact, theorem, back = renoise(v, predict, a, s, k, w)
        rows.append([k, *(float(x.norm(dim=1).mean()) for x in (theorem - v, exact - theorem, (v - back) / k))])
    return rows


def lipschitz(function: Callable[[Tensor], Tensor], points: Tensor) -> float:
    """A lower bound of its Lipschitz constant: the largest spectral norm of its Jacobian at the points."""
    return float(torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(function))(points), 2).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    torch.manual_seed(0)
    (a, s), data = levels("exp", 1000), demo(num_users=300, num_items=200).interactions
    config = configure("simdiff", "normal", epochs=parser.parse_args().epochs, steps=1000, dim=32)
    model = fit(data, config, progress=False, device="cpu").model.double()
    signal = model.signal(torch.arange(data.num_items)).detach()  # type: ignore[operator]

    def trained(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        when = torch.full((len(x),), t)
        clean = [model.denoiser(x, when, *guide) for guide in ((signal[: len(x)],), ())]  # type: ignore[operator]
        return (x - a[t] * clean[0]) / s[t], (x - a[t] * clean[1]) / s[t]

    v = torch.randn(data.num_items, 32, dtype=torch.float64)
    for name, predict, start in (("Gaussian items", gaussian(a, s), v[:, :16]), ("trained SimDiff", trained, v)):
        with torch.no_grad():
            rows = errors(predict, start, a, s, (2.0, 0.0))
        for k, moved, error, pace in rows:
            print(
                f"{name}, k = {k:.0f}: |kappa g_s| {moved:.3g}, error {error / moved:.1%}, |v_T - v_T-k| {pace:.3g} k"
            )
        plt.loglog(*zip(*[(row[0], row[2] / row[1]) for row in rows], strict=True), "o-", label=name)
    print(f"trained: Lipschitz constant at least {lipschitz(lambda x: trained(x[None], 1000)[0][0], v[:50]):.3f} at T")
    for name, last in ((name, levels(name, 200)[0][-2:]) for name in ("linear", "exp", "cosine", "sqrt")):
        print(f"{name}, T = 200: the first step back multiplies the signal by {float(last[0] / last[1]):.3g}")
    plt.legend(title="error / |kappa g_s| over k")
    plt.savefig("renoising.png", dpi=100)


if __name__ == "__main__":
    main()
