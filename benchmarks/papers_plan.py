"""What each table of the papers compares, as configurations of this library; a row that cannot be run says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """Rows of a committed study: its CSV below ``benchmarks/results``, and the columns that name them."""

    file: str
    where: Mapping[str, str]


@dataclass(frozen=True)
class Variant:
    """A row: what it is called, what is run for it, why it is not, and the study that has it already."""

    row: str
    config: Config | None
    absent: str = ""
    kept: Kept | None = None


def _model(file: str, model: str) -> Kept:
    return Kept(file, {"model": model})


STUDIES: dict[str, dict[str, Kept]] = {
    "office": {
        row: _model("compare_office/runs.csv", MODELS[row]) for row in ("MF", "LightGCN", "SGL", "SimGCL", "LightGCL")
    } | {"DiffRec": _model("compare_office/runs.csv", "diffrec"), "EASE": _model("compare_office/runs.csv", "ease"),
         "InfoDCL, defaults": _model("compare_office/runs.csv", "infodcl"),
         "MF, same start": _model("compare_office/runs_from_vectors.csv", "mf")},
    "taobao": {
        row: _model("compare_taobao_random/runs.csv", MODELS[row]) for row in ("MF", "LightGCN")
    } | {row: _model("compare_taobao/runs.csv", MODELS[row]) for row in ("SGL", "NCL", "SimGCL", "LightGCL", "DiffRec")}
    | {"EASE": _model("compare_taobao/runs.csv", "ease"),
       "InfoDCL, defaults": _model("compare_taobao/runs.csv", "infodcl"),
       "MF, same start": _model("compare_taobao/runs.csv", "mf")},
    "tiktok": {
        row: _model("compare_tiktok/runs.csv", MODELS[row])
        for row in ("MF", "SGL", "NCL", "SimGCL", "LightGCL", "DiffRec")
    } | {"LightGCN": _model("compare_tiktok_random/runs.csv", "lightgcn"),
         "EASE": _model("compare_tiktok/runs.csv", "ease"),
         "InfoDCL, defaults": _model("compare_tiktok/runs.csv", "infodcl")},
}  # fmt: skip
"""Rows whose numbers are those of committed studies: tuned on validation for minutes, three seeds."""


def with_studies(variants: Sequence[Variant], data: str) -> list[Variant]:
    """The rows, those of a committed study marked as such."""
    known = STUDIES.get(data, {})
    return [replace(variant, kept=known.get(variant.row)) for variant in variants]


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
    if side is not None and config.recipe.reads_channels:
        config = config.changed(**side.channels())
    return Variant(name, config)


def infodcl_table2(side: Side) -> list[Variant]:
    names = "MF ENMF NGCF LightGCN DiffRec DDRM GiffCF SGL NCL SimGCL RecDCL SGCL CoGCL".split()
    return [
        Variant("InfoDCL-S", authors()),
        Variant("InfoDCL-D", authors(channels="both")),
        *map(_baseline, names),
        Variant("InfoDCL, defaults", configure("infodcl")),
        Variant("MF, same start", configure("mf", "pretrained")),
        Variant("EASE", configure("ease")),
    ]


def infodcl_table3(side: Side) -> list[Variant]:
    modal = {**side.channels()}
    names = "MMSSL LATTICE BM3 LGMRec MGCN DiffMM".split()
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
    names = "MF ENMF NGCF LightGCN SGL NCL LightGCL SCCF DiffRec DDRM-LightGCN DDRM-SGL CF-Diff GiffCF".split()
    return [Variant("SimDiff", simdiff(side)), *map(_baseline, names)]


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
    names = "MMSSL LATTICE BM3 LGMRec MGCN SLMRec DiffMM".split()
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
    return [Variant("SimDiff", simdiff(side)), *map(_baseline, "LightGCN SGL NCL GiffCF".split())]


def simdiff_figure9(side: Side) -> list[Variant]:
    def make(**changes: Any) -> Config:
        return simdiff(side, **changes)

    return _sweep(
        make, num_layers=(0, 2, 3), reconstruction=(0.3, 0.5, 0.7), injection=(0.3, 0.6, 1.0),
        collaboration=(1e-3, 0.1, 1.0),
    )  # fmt: skip


def diffcl_table2(side: Side) -> list[Variant]:
    names = "BPR LightGCN VBPR MMGCN DualGNN SLMRec BM3 MGCN Freedom DiffMM".split()
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
