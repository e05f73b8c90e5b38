"""What each table of the papers compares, as configurations of this library; a row that cannot be run says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infodcl_geo import Config, configure

AUTHORS: dict[str, Any] = {
    "init_std": 0.1, "lr": 0.005, "batch_size": 2000, "num_layers": 2, "schedule": "exp", "steps": 200,
    "reconstruction": 0.4, "balance": 5e-5, "contrast": 0.01, "temperature": 0.5, "l2": 0.003, "row_weights": "equal",
    "channels": "item", "metadata_scale": 1.0,
}  # fmt: skip
"""InfoDCL as its authors ran Amazon-Office: random embeddings, their weights; losses are means here, so the weight of
InfoNCE is theirs times their 2,000 anchors."""

MODELS = {
    "MF": "mf", "BPR": "mf", "ENMF": "enmf", "NGCF": "ngcf", "LightGCN": "lightgcn", "DiffRec": "diffrec",
    "DDRM": "ddrm", "DDRM-LightGCN": "ddrm", "GiffCF": "giffcf", "CF-Diff": "cfdiff", "SGL": "sgl", "NCL": "ncl",
    "SimGCL": "simgcl", "RecDCL": "recdcl", "SGCL": "sgcl", "CoGCL": "cogcl", "LightGCL": "lightgcl", "SCCF": "sccf",
    "LATTICE": "lattice", "BM3": "bm3", "LGMRec": "lgmrec", "MGCN": "mgcn", "DiffMM": "diffmm", "Freedom": "freedom",
    "VBPR": "vbpr",
}  # fmt: skip
"""The library's model for a row of the papers."""

ABSENT = {
    "MMSSL": "its adversarial training is not in the library",
    "SLMRec": "not in the library",
    "MMGCN": "not in the library",
    "DualGNN": "not in the library",
    "DDRM-SGL": "only the LightGCN backbone is in the library",
}

SAMPLES = {
    "office": "the papers' split",
    "taobao": "the papers' split",
    "tiktok": "the papers' split; image and audio features, no text",
    "electronics": "another preparation than the papers' (20,247 users, 11,589 items)",
    "ml-1m": "another preparation and split than the papers' (6,039 users, 3,628 items)",
    "lastfm": "in none of the papers",
}
"""The data sets that are at hand, and how they relate to the papers'."""


@dataclass(frozen=True)
class Side:
    """Side information of the data set.

    Args:
        features: files of item features, separated by commas; none where it is empty.
    """

    features: str = ""

    def channels(self, only: str = "") -> dict[str, Any]:
        """Options of models with modalities: the features (those whose name holds ``only``), or a similarity channel.

        Args:
            only: part of the name of the files that are taken; all by default.
        """
        taken = [name for name in self.features.split(",") if name and only in name.rpartition("/")[2]]
        return {"channels": "modal", "features": ",".join(taken)} if taken else {"channels": "item"}


@dataclass(frozen=True)
class Kept:
    """Rows of a committed study that stand for a row of a table.

    Args:
        file: its CSV below ``benchmarks``.
        where: columns that name the rows.
        against: the same for the rows that they are compared with, seed by seed; none where it is empty.
        start: what the embeddings started from.
    """

    file: str
    where: Mapping[str, str]
    against: Mapping[str, str] = field(default_factory=dict)
    start: str = ""


@dataclass(frozen=True)
class Variant:
    """A row: what it is called, what is run for it, why it is not, and the study that has it already."""

    row: str
    config: Config | None
    absent: str = ""
    kept: Kept | None = None


def with_studies(variants: Sequence[Variant], artefact: str, data: str) -> list[Variant]:
    """The rows, those of committed studies marked as such, and the rows that only studies have.

    Args:
        artefact: name of the table.
        data: name of the data set.
    """
    known, more = STUDIES.get(data, {}), MORE.get((artefact, data), {})
    found = [replace(variant, kept=known.get(variant.row)) for variant in variants]
    return [*found, *(Variant(row, None, kept=kept) for row, kept in more.items())]


_TABLE = "results/compare_{}/runs.csv"
_VECTORS = "results/compare_office/runs_from_vectors.csv"
_RANDOM, _PRETRAINED, _PROPAGATED = "random", "vectors", "MF, propagated"


def _models(file: str, rows: str, start: str, **named: str) -> dict[str, Kept]:
    """Rows by their names in :data:`MODELS`, and ``named`` ones by the library's."""
    models = {**{row: MODELS[row] for row in rows.split()}, **named}
    return {row: Kept(file, {"model": model}, start=start) for row, model in models.items()}


STUDIES: dict[str, dict[str, Kept]] = {
    "office": _models(_TABLE.format("office"), "LightGCN SGL SimGCL LightGCL DiffRec", _RANDOM)
    | _models(_TABLE.format("office"), "", _RANDOM, **{_PROPAGATED: "mf"})
    | _models(_TABLE.format("office"), "", "", EASE="ease")
    | {"InfoDCL, defaults": Kept(_TABLE.format("office"), {"model": "infodcl"}, start=_PRETRAINED)}
    | {"MF, same start": Kept(_VECTORS, {"model": "mf"}, start=_PRETRAINED)},
    "taobao": _models(_TABLE.format("taobao_random"), "LightGCN", _RANDOM, **{_PROPAGATED: "mf"})
    | _models(_TABLE.format("taobao"), "DiffRec", "", EASE="ease")
    | _models(_TABLE.format("taobao"), "SGL NCL SimGCL LightGCL", _PRETRAINED)
    | {"InfoDCL, defaults": Kept(_TABLE.format("taobao"), {"model": "infodcl"}, start=_PRETRAINED)}
    | {"MF, same start": Kept(_TABLE.format("taobao"), {"model": "mf"}, start=_PRETRAINED)},
    "tiktok": _models(_TABLE.format("tiktok_random"), "LightGCN", _RANDOM)
    | _models(_TABLE.format("tiktok"), "DiffRec", "", EASE="ease")
    | _models(_TABLE.format("tiktok"), "SGL NCL SimGCL LightGCL", "chosen on validation", **{_PROPAGATED: "mf"})
    | {"InfoDCL, defaults": Kept(_TABLE.format("tiktok"), {"model": "infodcl"}, start=_PRETRAINED)},
    "electronics": {
        row: Kept("results/quality_electronics/summary.csv", {"model": model}, start=start)
        for row, model, start in (
            (_PROPAGATED, "mf", _RANDOM), ("LightGCN", "lightgcn", _RANDOM), ("SimGCL", "simgcl", _RANDOM),
            ("InfoDCL, defaults", "infodcl", _PRETRAINED), ("MF, same start", "mf-pretrained", _PRETRAINED),
        )
    },
    "lastfm": {
        row: Kept("studies/item_term/results/table-lastfm.csv", {"label": label}, start=_PRETRAINED)
        for row, label in (
            ("LightGCN", "LightGCN"), ("InfoDCL, defaults", "InfoDCL"), ("MF, same start", "MF"), ("EASE", "EASE"),
        )
    },
}  # fmt: skip
"""Rows whose numbers are those of committed studies, tuned on validation; most have three seeds."""


def _choices(file: str, column: str, whole: str, start: str, **rows: str) -> dict[str, Kept]:
    against = {column: whole}
    return {
        f"{start}: {row.replace('_', ' ')}": Kept(file, {column: value}, against if value != whole else {}, start)
        for row, value in rows.items()
    }


_CHOICES = {
    "InfoDCL": "default", "w/o_SR": "without spectral rectification", "w/o_CR": "without contextual re-encoding",
    "w/o_PSNet": "without PSNet", "w/o_CBL": "without balance loss", "norm_of_eq._13": "balance as a norm (eq. 13)",
    "random_start": "start: random", "two_channels": "channels: both", "batch_basis": "basis: batch",
}  # fmt: skip
_EASE_CHANNEL = {
    "InfoDCL": "EASE channel", "w/o_SR": "w/o spectral rectification", "w/o_CR": "w/o contextual re-encoding",
    "w/o_PSNet": "w/o PSNet (Gaussian noise)", "w/o_CBL": "w/o balance",
}  # fmt: skip
_PARTS = ("start: random", "default", "basis: batch")

MORE: dict[tuple[str, str], dict[str, Kept]] = {
    ("infodcl-figure2", "office"): {
        **_choices("results/choices_office/runs.csv", "choice", "default", "vectors", **_CHOICES),
        **_choices(
            "studies/item_term/results/ablations-office.csv", "label", "EASE channel", "EASE channel", **_EASE_CHANNEL
        ),
    },
    ("infodcl-figure2", "taobao"): _choices(
        "results/choices_taobao/runs.csv", "choice", "default", "vectors",
        **{row: value for row, value in _CHOICES.items() if value in _PARTS},
    ),
    ("infodcl-table3", "tiktok"): {
        f"InfoDCL, {variant}": Kept(
            "results/channels_tiktok/runs.csv", {"variant": variant},
            {} if variant == "no channel" else {"variant": "no channel"}, _PRETRAINED,
        )
        for variant in ("no channel", "real graph", "real graph shuffled", "real graph, 100% noise")
    },
    ("infodcl-table3", "lastfm"): {
        f"InfoDCL, {variant}": Kept(
            "results/channels_lastfm/runs.csv", {"variant": variant},
            {} if variant == "no channel" else {"variant": "no channel"}, _PRETRAINED,
        )
        for variant in ("no channel", "real graph", "real graph shuffled", "real graph, 100% noise")
    },
    ("simdiff-table3", "office"): {"SimDiff, from vectors": Kept(_VECTORS, {"model": "simdiff"}, start=_PRETRAINED)},
    ("simdiff-table3", "taobao"): {
        "SimDiff, from vectors": Kept(_TABLE.format("taobao"), {"model": "simdiff"}, start=_PRETRAINED)
    },
    ("simdiff-table3", "tiktok"): {
        "SimDiff, no features": Kept(_TABLE.format("tiktok"), {"model": "simdiff"}, start="chosen on validation"),
        "SimDiff, image": Kept(_TABLE.format("tiktok_image"), {"model": "simdiff"}, start="random and vectors"),
    },
    ("diffcl-table2", "office"): {"DiffCL, from vectors": Kept(_VECTORS, {"model": "diffcl"}, start=_PRETRAINED)},
    ("diffcl-table2", "taobao"): {
        "DiffCL, from vectors": Kept(_TABLE.format("taobao"), {"model": "diffcl"}, start=_PRETRAINED)
    },
}  # fmt: skip
"""Rows that only studies have: other starts, other channels."""


def from_random(model: str, **changes: Any) -> Config:
    """A model's defaults from random embeddings, where the papers start."""
    recipe = configure(model).recipe
    return configure(model, "normal" if "init" in recipe.option_names else None, **changes)


def authors(**changes: Any) -> Config:
    """InfoDCL with its authors' settings, some changed."""
    return configure("infodcl", "normal", **{**AUTHORS, **changes})


def simdiff(side: Side, only: str = "", **changes: Any) -> Config:
    return from_random("simdiff", **{**side.channels(only), **changes})


def diffcl(side: Side, **changes: Any) -> Config:
    return from_random("diffcl", **{**side.channels(), **changes})


def _baseline(name: str, side: Side | None = None) -> Variant:
    if name in ABSENT:
        return Variant(name, None, ABSENT[name])
    config = from_random(MODELS[name])
    if MODELS[name] == "mf":
        config = config.changed(num_layers=0)  # the library's propagates at inference, the papers' does not
    if side is not None and config.recipe.reads_channels:
        config = config.changed(**side.channels())
    return Variant(name, config)


def infodcl_table2(side: Side) -> list[Variant]:
    names = [
        "MF",
        "ENMF",
        "NGCF",
        "LightGCN",
        "DiffRec",
        "DDRM",
        "GiffCF",
        "SGL",
        "NCL",
        "SimGCL",
        "RecDCL",
        "SGCL",
        "CoGCL",
    ]
    return [
        Variant("InfoDCL-S", authors()),
        Variant("InfoDCL-D", authors(channels="both")),
        *map(_baseline, names),
        Variant("MF, propagated", from_random("mf")),
        Variant("InfoDCL, defaults", configure("infodcl")),
        Variant("MF, same start", configure("mf", "pretrained")),
        Variant("EASE", configure("ease")),
    ]


def infodcl_table3(side: Side) -> list[Variant]:
    modal = {**side.channels()}
    names = ["MMSSL", "LATTICE", "BM3", "LGMRec", "MGCN", "DiffMM"]
    return [Variant("InfoDCL", authors(**modal)), *(_baseline(name, side) for name in names)]


def infodcl_figure2(side: Side) -> list[Variant]:
    return [
        Variant("InfoDCL", authors()),
        Variant("w/o SR", authors(spectral=False)),
        Variant("w/o CR", authors(contextual=False)),
        Variant("w/o PSNet", authors(psnet=False)),
        Variant("w/o CBL", authors(balance=0.0)),
        Variant("norm of eq. 13, weight 0.01", authors(balance=0.01, balance_kind="norm")),
        Variant("no diffusion", authors(reconstruction=0.0, contrast=0.0, balance=0.0)),
    ]


def _sweep(make: Callable[..., Config], **values: Sequence[float]) -> list[Variant]:
    return [Variant("default", make())] + [
        Variant(f"{name}={value:g}", make(**{name: value})) for name, found in values.items() for value in found
    ]


def infodcl_figure9(side: Side) -> list[Variant]:
    return _sweep(
        authors, reconstruction=(0.05, 0.2, 0.6, 0.8), contrast=(0.0, 0.003, 0.03, 0.1), balance=(1e-4, 1e-3, 1e-2),
        l2=(0.001, 0.005, 0.01),
    )  # fmt: skip


def simdiff_table3(side: Side) -> list[Variant]:
    names = [
        "MF",
        "ENMF",
        "NGCF",
        "LightGCN",
        "SGL",
        "NCL",
        "LightGCL",
        "SCCF",
        "DiffRec",
        "DDRM-LightGCN",
        "DDRM-SGL",
        "CF-Diff",
        "GiffCF",
    ]
    return [Variant("SimDiff", simdiff(side)), *map(_baseline, names), Variant("MF, propagated", from_random("mf"))]


def simdiff_table4(side: Side) -> list[Variant]:
    return [
        Variant("SimDiff", simdiff(side)),
        Variant("(G, I+G)", simdiff(side, source="signal", target="both")),
        Variant("(G, I)", simdiff(side, source="signal")),
        Variant("(I, I+G)", simdiff(side, source="item", target="both")),
        Variant("w/o modal", simdiff(side, modal=False)),
        Variant("Pretrain", simdiff(side, target="pretrained")),
        Variant("no diffusion (MF)", from_random("mf")),
    ]


def simdiff_table5(side: Side) -> list[Variant]:
    return [Variant("SimDiff", simdiff(side)), Variant("w/o CTO", simdiff(side, collaboration=0.0))]


def simdiff_table6(side: Side) -> list[Variant]:
    names = ["MMSSL", "LATTICE", "BM3", "LGMRec", "MGCN", "SLMRec", "DiffMM"]
    return [Variant("SimDiff", simdiff(side)), *(_baseline(name, side) for name in names)]


def simdiff_table7(side: Side) -> list[Variant]:
    if not side.features:
        return [Variant(f"G = {name}", None, "the data set has no features here") for name in ("Image", "Text")]
    return [
        Variant("G = Image", simdiff(side, "image")),
        Variant("G = Audio", simdiff(side, "audio")),
        Variant("G = Text", None, "no text features at hand"),
        Variant("G = similar users", simdiff(Side(), channels="user")),
    ]


def simdiff_cold(side: Side) -> list[Variant]:
    return [Variant("SimDiff", simdiff(side)), *map(_baseline, ["LightGCN", "SGL", "NCL", "GiffCF"])]


def simdiff_figure9(side: Side) -> list[Variant]:
    def make(**changes: Any) -> Config:
        return simdiff(side, **changes)

    return _sweep(
        make, num_layers=(0, 2, 3), reconstruction=(0.3, 0.5, 0.7), injection=(0.3, 0.6, 1.0),
        collaboration=(1e-3, 0.1, 1.0),
    )  # fmt: skip


def diffcl_table2(side: Side) -> list[Variant]:
    names = ["BPR", "LightGCN", "VBPR", "MMGCN", "DualGNN", "SLMRec", "BM3", "MGCN", "Freedom", "DiffMM"]
    return [Variant("DiffCL", diffcl(side)), *(_baseline(name, side) for name in names)]


def diffcl_table3(side: Side) -> list[Variant]:
    off: dict[str, dict[str, Any]] = {"diff": {"contrast": 0.0}, "align": {"align": 0.0}, "h": {"item_layers": 0}}
    rows = {"DiffCL": off, "baseline": {}, **{name: {name: off[name]} for name in off}}
    for pair in (("diff", "align"), ("diff", "h"), ("align", "h")):
        rows["+".join(pair)] = {name: off[name] for name in pair}
    found = []
    for row, kept in rows.items():
        changes = {option: v for name, values in off.items() if name not in kept for option, v in values.items()}
        found.append(Variant(row, diffcl(side, **changes)))
    return found


def diffcl_figures(side: Side) -> list[Variant]:
    def make(**changes: Any) -> Config:
        return diffcl(side, **changes)

    return _sweep(make, contrast=(0.0, 0.1, 0.5), align=(0.0, 0.4, 1.0), l2=(1e-4, 0.01, 0.1))


@dataclass(frozen=True)
class Artefact:
    """A table of runs.

    Args:
        paper, table: where the published numbers are found.
        title: what it shows.
        rows: what is run.
        reference: row that all others are compared with, user by user.
        kind: 'bars' (rows side by side), 'sweep' (rows ``name=value``) or 'cold' (by training interactions).
    """

    paper: str
    table: str
    title: str
    rows: Callable[[Side], list[Variant]]
    reference: str
    kind: str = "bars"


TABLES: dict[str, Artefact] = {
    "infodcl-table2": Artefact("infodcl", "table2", "InfoDCL, Table 2: all models", infodcl_table2, "InfoDCL-S"),
    "infodcl-table3": Artefact("infodcl", "table3", "InfoDCL, Table 3: multimodal models", infodcl_table3, "InfoDCL"),
    "infodcl-figure2": Artefact("infodcl", "figure2", "InfoDCL, Figure 2: ablations", infodcl_figure2, "InfoDCL"),
    "infodcl-figure3": Artefact(
        "infodcl", "table2", "InfoDCL, Figure 3: quality and time", infodcl_table2, "InfoDCL-S", "time"
    ),
    "infodcl-figure9": Artefact(
        "infodcl", "figure9", "InfoDCL, Figure 9: every weight", infodcl_figure9, "default", "sweep"
    ),
    "simdiff-table3": Artefact("simdiff", "table3", "SimDiff, Table III: all models", simdiff_table3, "SimDiff"),
    "simdiff-table4": Artefact("simdiff", "table4", "SimDiff, Table IV: ablations", simdiff_table4, "SimDiff"),
    "simdiff-table5": Artefact("simdiff", "table5", "SimDiff, Table V: without CTO", simdiff_table5, "SimDiff"),
    "simdiff-table6": Artefact("simdiff", "table6", "SimDiff, Table VI: multimodal models", simdiff_table6, "SimDiff"),
    "simdiff-table7": Artefact("simdiff", "table7", "SimDiff, Table VII: signals", simdiff_table7, "G = Image"),
    "simdiff-cold": Artefact("simdiff", "figure7", "SimDiff, Figure 7: cold start", simdiff_cold, "SimDiff", "cold"),
    "simdiff-figure9": Artefact(
        "simdiff", "figure9", "SimDiff, Figure 9: every weight", simdiff_figure9, "default", "sweep"
    ),
    "diffcl-table2": Artefact("diffcl", "table2", "DiffCL, Table II: all models", diffcl_table2, "DiffCL"),
    "diffcl-table3": Artefact("diffcl", "table3", "DiffCL, Table III: ablations", diffcl_table3, "baseline"),
    "diffcl-figures": Artefact(
        "diffcl", "figure3", "DiffCL, Figures 3 to 5: every weight", diffcl_figures, "default", "sweep"
    ),
}
