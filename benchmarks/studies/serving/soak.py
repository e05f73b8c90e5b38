"""A served model under load: ``python benchmarks/studies/serving/soak.py --requests 1000000``.

Of a model of the size of Electronics (20,247 users, 11,589 items, 64 dimensions), or of a folder that ``train --out``
wrote: the time of single requests; throughput in batches; whether many threads get what one thread gets; and the memory
of the process while the requests are answered, of which it prints the growth.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench_serving import USERS, K, electronics

from infodcl_geo.recommender import Recommender


def resident() -> int:
    """Bytes of memory that the process holds."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a model; one of the size of Electronics by default")
    parser.add_argument("--requests", type=int, default=1_000_000, help="users asked in batches")
    parser.add_argument("--batch", type=int, default=64, help="users of a batch")
    parser.add_argument("--single", type=int, default=2000, help="requests for one user each, timed")
    parser.add_argument("--threads", type=int, default=32)
    options = parser.parse_args()
    model = Recommender.load(options.checkpoint) if options.checkpoint else electronics()
    users = model.user_ids.raw
    users = list(users)[:USERS]
    model.recommend([users[0]], K)

    wall, cpu = [], []
    for number in range(options.single):
        start = time.perf_counter(), time.thread_time()
        model.recommend([users[7 * number % len(users)]], K)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.thread_time() - start[1])
    print(
        f"one user: median {1e3 * np.median(wall):.2f} ms of wall-clock ({1e3 * np.median(cpu):.2f} ms of CPU), "
        f"99 of 100 within {1e3 * np.percentile(wall, 99):.2f} ms"
    )

    alone = {user: model.recommend([user], K)[0].items.tolist() for user in users[:256]}
    with ThreadPoolExecutor(options.threads) as pool:
        together = list(pool.map(lambda user: model.recommend([user], K)[0].items.tolist(), users[:256]))
    same = sum(alone[user] == items for user, items in zip(users[:256], together, strict=True))
    print(f"{options.threads} threads: {same} of 256 users get the list that one thread gets")

    def batches() -> Iterator[list[Any]]:
        for start in range(0, options.requests, options.batch):
            size = min(options.batch, options.requests - start)
            yield [users[(start + n) % len(users)] for n in range(size)]

    answered, work = 0, iter(batches())
    gc.collect()
    levels = [resident()]
    start = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(options.threads) as pool:
        while part := list(islice(work, 40 * options.threads)):
            answered += sum(pool.map(lambda asked: len(model.recommend(asked, K)), part))
            levels.append(resident())
            if len(levels) % 5 == 0:
                print(f"{answered} requests, {levels[-1] >> 20} MiB", flush=True)
    seconds, used = time.perf_counter() - start[0], time.process_time() - start[1]
    settled = levels[min(2, len(levels) - 1)]
    print(
        f"{answered} requests in batches of {options.batch} from {options.threads} threads: "
        f"{answered / seconds:.0f} a second of wall-clock, {answered / used:.0f} a second of CPU; memory "
        f"{levels[0] >> 20} MiB before, {settled >> 20} MiB after the first, {levels[-1] >> 20} MiB at the end"
    )
    return 0 if same == 256 and levels[-1] - settled < 32 << 20 else 1


if __name__ == "__main__":
    sys.exit(main())
