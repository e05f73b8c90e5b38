"""How much of an embedding is left after t steps of each noise schedule: ``python examples/schedules.py``.

Draws ``schedules.png`` (needs the extra ``plot``) and prints the step at which noise takes over.
"""

from __future__ import annotations

import argparse
from typing import get_args

import matplotlib.pyplot as plt

from infodcl_geo.nn import alpha_bar
from infodcl_geo.nn.diffusion import Schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="schedules.png")
    options = parser.parse_args()

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name in get_args(Schedule):
        left = alpha_bar(name, options.steps)
        axes.plot(range(1, options.steps + 1), left.sqrt(), label=name)
        print(
            f"{name}: more noise than embedding from step {int((left < 0.5).float().argmax()) + 1} of {options.steps}"
        )
    axes.set(xlabel="step t", ylabel=r"$\sqrt{\bar\alpha_t}$")
    axes.legend(frameon=False)
    figure.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
