"""Timings on one GPU, of the kernels next to their bounds and of training; run by ``gpu.sh``, which arranges imports.

Writes ``DIR/<name of the GPU>.csv``: one row per operation, implementation, type, size and pass with the median and
the 20 and 80 percent quantiles, the peak memory beyond the inputs, the bound and the share of it that was reached.
``rows`` are anchors of InfoNCE, rows of PSNet, matrices of the SVD, users of top-k, interactions of an epoch;
``candidates`` InfoNCE's candidates or the items. Lines that begin with ``#`` hold the versions, the commit and the
measured rates from which the bounds are computed.

``--device cpu`` goes the same way through tiny sizes, to test this script where there is no GPU: its numbers mean
nothing. A section is a function that takes a ``Report``; add it to ``SECTIONS``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_infonce import infonce_section
from gpu_psnet import psnet_section, svd_section
from gpu_rates import rates
from gpu_report import Report
from gpu_topk import topk_section
from gpu_training import training_section

#: Sections in the order of running.
SECTIONS: list[Callable[[Report], None]] = [
    rates, infonce_section, psnet_section, svd_section, topk_section, training_section,
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV file")
    parser.add_argument("--quick", action="store_true", help="one size of each operation")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no further timing after this long")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal with tiny sizes")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: nothing to time")
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "rehearsal"
    if arguments.device == "cuda":
        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    device = torch.device(arguments.device)
    report = Report(arguments.out / f"{name}.csv", device, arguments.quick, arguments.minutes)
    for section in SECTIONS:
        section(report)
        report.write()
    print(report.path)


if __name__ == "__main__":
    main()
