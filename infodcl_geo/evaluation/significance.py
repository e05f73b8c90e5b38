"""Whether models differ: paired tests over the users, adjusted for the number of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Test = Literal["t", "wilcoxon"]
Values = npt.NDArray[np.float64]


class Scored(Protocol):
    """What is asked of a finished run."""

    @property
    def label(self) -> str:
        """what the table calls it; runs of one label are seeds of one variant"""

    @property
    def studied(self) -> bool:
        """whether the model is one that is compared with the baselines"""

    @property
    def row(self) -> Mapping[str, Any]:
        """numbers by name, with ``"valid ndcg@20"`` and the like"""

    @property
    def per_user(self) -> Mapping[str, Values]:
        """test metrics of each user by name, ``[n]``, users in the same order in every run"""


@dataclass(frozen=True)
class Difference:
    """How a model differs from the baseline.

    Args:
        mean: mean of the users' differences, model minus baseline.
        p_value: of the paired test that there is none, adjusted for the number of models by Holm's method.
    """

    mean: float
    p_value: float


def best_baseline(entries: Iterable[Scored], metric: str) -> str | None:
    """The baseline of the highest mean validation ``metric``; ``None`` without baselines or without validation.

    Args:
        entries: finished runs.
        metric: such as ``"ndcg@20"``.
    """
    values: dict[str, list[float]] = {}
    for entry in entries:
        if not entry.studied and f"valid {metric}" in entry.row:
            values.setdefault(entry.label, []).append(entry.row[f"valid {metric}"])
    return max(values, key=lambda model: float(np.mean(values[model])), default=None)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""P-values adjusted for their number (Holm, 1979): :math:`\max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})`."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_test(differences: Values, test: Test = "t") -> float:
    """Two-sided p-value that the users' differences are about zero; 1 where there is nothing to test.

    Args:
        differences: one for each user, ``[n]``.
        test: 't' is Student's paired test of the mean; 'wilcoxon' the signed-rank test, in which only the users
            count whose difference is not zero.
    """
    from scipy import stats

    if differences.size < 2 or not differences.any():
        return 1.0
    if test == "wilcoxon":
        return float(stats.wilcoxon(differences).pvalue)
    if np.ptp(differences) == 0:
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def differences(entries: Sequence[Scored], metric: str, baseline: str, test: Test = "t") -> dict[str, Difference]:
    """Paired comparison of every other model with ``baseline``.

    Each user's ``metric`` is averaged over the seeds of a model; the pairs are the users. So the p-value speaks of
    other users from where these came, trained with these seeds, not of other seeds.

    Returns:
        For each other model, in their order, the difference with its p-value adjusted for the number of models.
    """
    kept: dict[str, list[Values]] = {}
    for entry in entries:
        kept.setdefault(entry.label, []).append(entry.per_user[metric])
    means = {model: np.mean(values, axis=0) for model, values in kept.items()}
    gaps = {model: values - means[baseline] for model, values in means.items() if model != baseline}
    adjusted = holm([paired_test(gap, test) for gap in gaps.values()])
    return {model: Difference(float(gap.mean()), p) for (model, gap), p in zip(gaps.items(), adjusted, strict=True)}
