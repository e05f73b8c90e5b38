"""Train InfoDCL on generated interactions and recommend: ``python examples/quickstart.py``."""

from __future__ import annotations

import argparse

from infodcl_geo import Recommender, configure, run
from infodcl_geo.data.generated import demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = demo().interactions  # generated, with planted tastes
    outcome = run(data, configure("infodcl", epochs=options.epochs, seed=options.seed))
    print(f"best epoch {outcome.result.best_epoch}, test recall@20 {outcome.test['recall@20']:.4f}")
    for answer in Recommender.from_run(outcome, data).recommend([3, 17], k=5):
        print(f"user {answer.user}: items {answer.items.tolist()}")


if __name__ == "__main__":
    main()
