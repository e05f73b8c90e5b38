"""How numbers and tables are printed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

GENERATED_NOTE = "The data are generated, with planted tastes: the numbers say that the program works, nothing more."


def shown(metrics: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Metrics as cells."""
    return [f"{metrics[name]:.4f}" if name in metrics else "-" for name in names]


def headline(ks: Sequence[int]) -> list[str]:
    """The two metrics that tables show."""
    k = 20 if 20 in ks else max(ks)
    return [f"recall@{k}", f"ndcg@{k}"]


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A table in Markdown."""
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def json_text(content: Any) -> str:
    """Valid JSON: numbers that are none become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(name): _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
