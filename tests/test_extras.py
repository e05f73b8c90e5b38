"""Without torch-sparse, triton and every other extra everything works, or one line says what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "sparse": ("torch_sparse", "torch_scatter"),
    "triton": ("triton",),
    "numba": ("numba",),
    "parquet": ("pyarrow",),
    "plot": ("matplotlib",),
    "papers": ("sklearn",),
    "tune": ("optuna",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "faiss": ("faiss",),
}
"""The modules of each extra that a user may leave out."""
OF_TESTS = {"docs", "test", "dev"}

WITHOUT = """
import importlib.abc, importlib.machinery, json, sys
absent = set(json.loads(sys.argv[1]))
class Without:
    # As where a package is not installed: nobody finds it.
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *rest)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
"""
RUN = (
    WITHOUT
    + """
import contextlib, io
from infodcl_geo.cli import main
answers = []
for words in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            import traceback
            code, _ = 70, err.write(traceback.format_exc())
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([answers, sorted(absent & {name.partition(".")[0] for name in sys.modules})]))
"""
)


def run(absent: list[str], commands: list[list[object]]) -> list[tuple[int, str, str]]:
    """Commands in an interpreter that does not find some modules: exit status, output and errors of each."""
    words = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, json.dumps(absent), json.dumps(words)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "INFODCL_GEO_TORCH_SPARSE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers, found = json.loads(done.stdout.splitlines()[-1])
    assert found == []
    return [tuple(answer) for answer in answers]


def test_every_extra_is_tried() -> None:
    """A new extra needs a line here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) - OF_TESTS == set(MODULES)


def test_without_any_extra_everything_works_or_one_line_says_what_is_missing(tmp_path: Path) -> None:
    data = tmp_path / "ratings.csv"
    data.write_text("user,item\n" + "".join(f"u{u},i{(u * 7 + k * k) % 17}\n" for u in range(12) for k in range(9)))
    model, small = tmp_path / "model", ["--epochs", 1, "--dim", 4, "--progress=false"]
    fine: list[list[object]] = [
        ["train", "--data", data, "--model", "infodcl", *small, "--out", model],
        ["train", "--data", data, "--model", "mf", "--adam", "lazy", *small],
        ["train", "--data", data, "--model", "slim"],
        ["compare", "--data", data, "--models", "popularity", "lightgcn", *small, "--out", tmp_path / "t.csv"],
        ["evaluate", "--checkpoint", model, "--data", data],
        *(["recommend", "--checkpoint", model, "--users", "u1", "--format", f] for f in ("table", "csv", "jsonl")),
        ["recommend", "--checkpoint", model, "--users", "u1", "--out", tmp_path / "l.parquet"],
        ["train", "--data", tmp_path / "l.parquet", "--model", "popularity"],
        *(
            ["export", "--checkpoint", model, "--format", f, "--out", tmp_path / f]
            for f in ("npz", "parquet", "safetensors")
        ),
        ["inspect", "--data", data, "--channels", "item", "--dim", 4],
    ]
    missing: dict[str, list[object]] = {
        "tune": ["tune", "--data", data, "--models", "ease", "--trials", 1, "--out", tmp_path / "s.yaml"],
        "plot": ["report", "--runs", tmp_path, "--out", tmp_path / "page.html"],
        "faiss": ["export", "--checkpoint", model, "--format", "faiss", "--out", tmp_path / "index"],
        "tensorboard": ["train", "--data", data, "--model", "mf", *small, "--tensorboard", tmp_path / "board"],
        "wandb": ["train", "--data", data, "--model", "mf", *small, "--wandb", "project"],
    }
    absent = [module for modules in MODULES.values() for module in modules]
    answers = run(absent, [*fine, *missing.values()])
    for command, (code, _, err) in zip(fine, answers, strict=False):
        assert (code, err) == (0, ""), (command, err)
    for (extra, command), (code, _, err) in zip(missing.items(), answers[len(fine) :], strict=True):
        assert code == 1, (command, err)
        assert len(err.splitlines()) == 1, err
        assert f"pip install 'infodcl-geo[{extra}]'" in err


def test_every_module_can_be_imported_without_any_extra() -> None:
    """But those that hold an extra's kernels, which are imported where it is there."""
    code = (
        WITHOUT
        + """
import importlib, pkgutil, infodcl_geo, infodcl_geo.kernels
for package in (infodcl_geo, infodcl_geo.kernels):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith(("_triton", "_numba", "_launch", "__main__")):
            importlib.import_module(found.name)
"""
    )
    absent = json.dumps([module for modules in MODULES.values() for module in modules])
    done = subprocess.run([sys.executable, "-c", code, absent], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("extra", ["numba", "triton"])
def test_numbers_do_not_hang_on_an_extra(extra: str, tmp_path: Path) -> None:
    """Without it another code makes the same run: the metrics agree as far as float32 does."""
    data = tmp_path / "ratings.csv"
    data.write_text("user,item\n" + "".join(f"u{u},i{(u * 7 + k * k) % 29}\n" for u in range(30) for k in range(9)))
    found = []
    for name, absent in (("with", []), ("without", list(MODULES[extra]))):
        words = ["train", "--data", data, "--model", "mf", "--epochs", 3, "--dim", 8, "--progress=false"]
        ((code, _, err),) = run(absent, [[*words, "--out", tmp_path / name]])
        assert code == 0, err
        found.append(json.loads((tmp_path / name / "metrics.json").read_text())["validation"])
    assert found[0] == pytest.approx(found[1], abs=0.02)
