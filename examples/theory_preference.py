"""Theorem B.1 of InfoDCL, checked: ``python examples/theory_preference.py``.

The theorem bounds how much more a user prefers what is generated from v_T + kappa g_s than from v_T, and eq. 33 says
which kappa is best. Measures both where the bound is met exactly, where it fails, and for a trained SimDiff whose
reverse process is the generator; draws ``preference.png`` (needs the extra ``plot``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from infodcl_geo import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.experiment import fit
from infodcl_geo.nn.diffusion import reverse_process


class Bound(NamedTuple):
    """What the theorem says of a user u and a gradient g: delta = <u, g> and cost = gamma |u| |g|."""

    delta: float
    cost: float

    def at(self, kappa: Tensor) -> Tensor:  # eq. 27
        return kappa * self.delta - self.cost * kappa**2

    def best(self) -> float:  # eq. 33
        return self.delta / (2 * self.cost)


def bound(u: Tensor, g: Tensor, gamma: float) -> Bound:
    return Bound(float(u @ g), gamma * float(u.norm() * g.norm()))


def gains(generate: Callable[[Tensor], Tensor], u: Tensor, g: Tensor, v: Tensor, kappas: Tensor) -> Tensor:
    """Mean over v of <u, G(v + kappa g)> - <u, G(v)>, for each kappa; v and -v are both taken."""
    v = torch.cat([v, -v])
    return torch.stack([((generate(v + kappa * g) - generate(v)) @ u).mean() for kappa in kappas])


def curved(u: Tensor, g: Tensor, gamma: float) -> Callable[[Tensor], Tensor]:
    """x - (gamma / |g|) <x, g / |g|>^2 u / |u|: over symmetric v its gain is the bound itself."""
    return lambda x: x - (gamma / g.norm()) * (x @ (g / g.norm()))[..., None] ** 2 * (u / u.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    torch.manual_seed(0)
    u, g, v = torch.randn(3, 500, 16, dtype=torch.float64)
    u, g = u[0], g[0] + u[0]
    told = bound(u, g, 0.7)
    kappas = torch.linspace(0, 2 * told.best(), 81, dtype=torch.float64)
    for name, generate in (("curved", curved(u, g, 0.7)), ("linear, G(x) = 0.7 x", lambda x: 0.7 * x)):
        found = gains(generate, u, g, v, kappas)
        said = "fails" if (found < told.at(kappas) - 1e-9).any() else "holds"
        print(
            f"{name}: gains most at kappa {kappas[found.argmax()]:.3f}, eq. 33 says {told.best():.3f}; the bound {said}"
        )
        plt.plot(kappas, found, label=name)
    plt.plot(kappas, told.at(kappas), "k--", label="bound (eq. 27)")

    data = demo(num_users=300, num_items=200).interactions
    config = configure("simdiff", "normal", epochs=parser.parse_args().epochs, dim=32)
    model = fit(data, config, progress=False, device="cpu").model.double().requires_grad_(False)
    diffusion, denoiser, when = model.diffusion, model.denoiser, torch.full((50,), model.diffusion.steps)  # type: ignore
    level, rows = diffusion.alpha_bar[-1].double(), []  # type: ignore[union-attr, index]
    for item in data.train[1].unique()[:20].tolist():
        signal = model.signal(torch.tensor([item])).expand(50, -1)  # type: ignore[operator]

        def generate(z: Tensor, signal: Tensor = signal) -> Tensor:
            predict = lambda z, t: denoiser.guided(z, t, signal[:1].expand(len(z), -1), 2.0)  # type: ignore # noqa: E731
            return reverse_process(predict, z, diffusion, count=10, sampler="ddim")  # type: ignore[arg-type]

        x, user = torch.randn(50, 32).double(), data.train[0][data.train[1] == item][0]
        u = model.user_embedding.weight[user]  # type: ignore[union-attr, index]
        # Eq. 21: the noise with the condition minus the noise without it.
        g = ((denoiser(x, when) - denoiser(x, when, signal)) * (level / (1 - level)).sqrt()).mean(0)  # type: ignore
        jacobian = torch.func.vmap(torch.func.jacrev(lambda z, f=generate: f(z[None])[0]))(x[:3])
        told = bound(u, g, float(torch.linalg.matrix_norm(jacobian, 2).max()))
        cosine = torch.nn.functional.cosine_similarity(u @ jacobian, u[None]).mean()
        gain = gains(generate, u, g, x, torch.ones(1, dtype=torch.float64))[0]
        rows.append([told.cost / float(u.norm() * g.norm()), float(cosine), told.delta, float(gain / told.delta)])
    gamma, cosine, delta, share = torch.tensor(rows).T
    print(f"trained SimDiff: gamma at least {gamma.median():.2f}, cos(J'u, u) {cosine.mean():.2f}")
    print(f"trained SimDiff: delta is above 0 for {int((delta > 0).sum())} of {len(delta)} users and items they took")
    print(f"trained SimDiff: the gain at kappa = 1 is {share.median():.2f} times delta, where the proof has 1")
    plt.legend(title="gain over kappa")
    plt.savefig("preference.png", dpi=100)


if __name__ == "__main__":
    main()
