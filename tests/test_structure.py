"""The house as ``infodcl_geo`` is built: which room may read which, what a file may hold, what an import loads."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import torch

from infodcl_geo.models import RECIPES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "infodcl_geo"

# In the order in which the data go through them: each room reads only rooms that stand before it. A room is a folder,
# or a file beside the folders.
ROOMS = [
    "text",
    "errors",
    "files",
    "environment",
    "kernels",
    "data",
    "graph",
    "nn",
    "channels",
    "pyg",
    "models",
    "evaluation",
    "training",
    "configuration",
    "pretraining",
    "selection",
    "outcome",
    "experiment",
    "settings",
    "resuming",
    "tuning",
    "comparison",
    "saved",
    "card",
    "rescoring",
    "serving",
    "recommender",
    "new_items",
    "index",
    "preset",
    "distributed",
    "report",
    "cli",
    "__main__",
]
# Layers and graph operations are for any use, so they read neither files nor recommendation data.
NO_DATA = ("kernels", "graph", "nn")
LONGEST, LONGEST_OF, LONGEST_MODEL = 450, {"experiment.py": 250}, 250
# What is called like a model, and is none.
ORDINARY_WORDS = {"popularity", "svd"}  # fine as identifiers and in sentences; not as a text of their own
HOMONYMS = {
    ("evaluation/metrics.py", "popularity"): "the mean degree of what is recommended",
    ("channels/ease.py", "ease"): "a channel made of item-item weights",
    ("channels/build.py", "ease"): "a channel made of item-item weights",
    ("preset.py", "ease"): "a channel made of item-item weights",
    ("selection.py", "ease"): "a form of the item-item weights",
    ("selection.py", "slim"): "a form of the item-item weights",
}


def sources() -> dict[str, Path]:
    """The files by the name of their module; the kernels lie beside the package and ship inside it."""
    found = {}
    for folder, package in ((ROOT / PACKAGE, PACKAGE), (ROOT / "kernels", f"{PACKAGE}.kernels")):
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """Modules of ours that a module reads, and whether it does so as soon as it is imported itself."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def within(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue  # for the type checker alone
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                home = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                source = ".".join([*home, *([child.module] if child.module else [])])
                for alias in child.names:
                    whole = f"{source}.{alias.name}"
                    yield (whole if whole in SOURCES else source), at_once
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from within(child, at_once and not inside)

    for name, at_once in within(ast.parse(path.read_text(encoding="utf-8")), True):
        if name in SOURCES and name != module:
            yield name, at_once


def room(module: str) -> str:
    return [*module.split("."), ""][1]


ARROWS = [(module, other, at_once) for module in SOURCES for other, at_once in imports(module)]


def test_the_arrows_were_found() -> None:
    assert ("infodcl_geo.experiment", "infodcl_geo.training.loop", True) in ARROWS
    assert ("infodcl_geo.kernels.infonce_op", "infodcl_geo.kernels.infonce_common", True) in ARROWS
    assert ("infodcl_geo.cli.train", "infodcl_geo.experiment", False) in ARROWS
    assert ("infodcl_geo.models", "infodcl_geo.models.mf", True) in ARROWS


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in SOURCES} - {""} <= set(ROOMS)


def test_each_room_reads_only_rooms_before_it() -> None:
    """Also inside functions: an import that waits is an arrow as well."""
    place = {name: number for number, name in enumerate(ROOMS)}
    wrong = {
        f"{module} -> {other}"
        for module, other, _ in ARROWS
        if room(module) and room(other) and room(module) != room(other) and place[room(other)] > place[room(module)]
    }
    assert not wrong


def test_layers_read_no_data() -> None:
    allowed = {"errors", "text", *NO_DATA}
    wrong = {f"{module} -> {other}" for module, other, _ in ARROWS if room(module) in NO_DATA and room(other)
             if room(other) not in allowed}  # fmt: skip
    assert not wrong


def test_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, other, at_once in ARROWS:
        if at_once:
            graph.setdefault(module, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_file_is_long() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in SOURCES.items()}
    wrong = {name: n for name, n in lengths.items() if n > LONGEST_OF.get(SOURCES[name].name, LONGEST)}
    assert not wrong


def test_no_model_is_long() -> None:
    files = {module: path.read_text(encoding="utf-8") for module, path in SOURCES.items() if room(module) == "models"}
    models = {module: text for module, text in files.items() if "\nrecipe = Recipe(" in text}
    assert len(models) == len(RECIPES)
    # What models are made of is held to the same, but for the forms of scoring, which are no model's.
    assert not {
        module: lines
        for module, text in files.items()
        if module != "infodcl_geo.models.scoring" and (lines := len(text.splitlines())) > LONGEST_MODEL
    }


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Identifiers, and words of texts that are no documentation, with their line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            for word in re.findall(r"[\w-]+", node.value):
                if word == node.value or word not in ORDINARY_WORDS:
                    yield line, word
        elif isinstance(node, ast.Name) and node.id not in ORDINARY_WORDS:
            yield line, node.id
        elif isinstance(node, ast.Attribute) and node.attr not in ORDINARY_WORDS:
            yield line, node.attr
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield line, node.arg
        elif isinstance(node, ast.alias):
            yield from ((line, part) for part in node.name.split("."))
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((line, part) for part in node.module.split("."))


def test_no_model_is_named_outside_the_models() -> None:
    names = {recipe.name for recipe in RECIPES}
    found, excused = set(), set()
    for module, path in SOURCES.items():
        if room(module) in ("models", "kernels"):
            continue
        place = path.relative_to(ROOT / PACKAGE).as_posix()
        for line, word in words(path):
            if word in names:
                (excused if (place, word) in HOMONYMS else found).add((place, word, line))
    assert not found
    assert {(place, word) for place, word, _ in excused} == set(HOMONYMS), "an excuse that is not needed"


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after ``code``."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import infodcl_geo", {"torch", "numpy", "polars", "jsonargparse"}),
        ("import infodcl_geo.cli; infodcl_geo.cli.main(['--version'])", {"torch", "numpy", "polars", "jsonargparse"}),
        ("import infodcl_geo.cli; infodcl_geo.cli.main([])", {"torch", "numpy", "polars", "jsonargparse"}),
        ("import infodcl_geo.nn", {"infodcl_geo.data", "infodcl_geo.models", "pandas", "polars", "torch._dynamo"}),
        ("import infodcl_geo.data.interactions", {"pandas", "pyarrow", "torch_geometric", "infodcl_geo.models"}),
        ("from infodcl_geo import run, Recommender", {"pandas", "torch._dynamo", "optuna", "torch_geometric"}),
        ("from infodcl_geo import run, Recommender", {"infodcl_geo.distributed", "torch.distributed.checkpoint"}),
    ],
)
def test_what_an_import_leaves_alone(code: str, absent: set[str]) -> None:
    assert not absent & loaded_by(code)


def test_inspect_loads_what_it_needs_alone(tmp_path: Path) -> None:
    """The rest is seconds: ``inspect`` on a small file is to start about as fast as PyTorch does."""
    file = tmp_path / "small.csv"
    file.write_text("user_id,item_id\n" + "".join(f"{u},{(u * i) % 7}\n" for u in range(9) for i in range(1, 5)))
    loaded = loaded_by(f"import infodcl_geo.cli; infodcl_geo.cli.main(['inspect', '--data', {str(file)!r}])")
    assert "torch" in loaded
    heavy = {"torch._dynamo", "torch._inductor", "triton", "numba", "torch_geometric", "optuna", "matplotlib", "pandas"}
    heavy |= {"scipy.stats", "scipy.sparse.linalg", "scipy.optimize", "sympy", "tensorboard", "wandb"}
    assert not heavy & loaded


def test_every_package_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {name for name, path in SOURCES.items() if path.name == "__init__.py"}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders


USER = """
from infodcl_geo import Config, Interactions, Recipe, Recommender, Run, configure, load_interactions, run


def best(path: str, recipe: Recipe | str = "mf") -> dict[str, float]:
    data: Interactions = load_interactions(path)
    config: Config = configure(recipe, epochs=3, dim=16)
    outcome: Run = run(data, config, progress=False)
    Recommender.from_run(outcome, data).save("model")
    for answer in Recommender.load("model").recommend(["a", "b"], k=3):
        print(answer.user, answer.items.tolist())
    return outcome.test
"""


@pytest.fixture(params=["wheel", "editable"])
def installed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An interpreter for which the packages lie as a wheel, or as an editable install, lays them out."""
    packages = ROOT
    if request.param == "wheel":
        packages = tmp_path / "installed"
        shutil.copytree(ROOT / PACKAGE, packages / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    others = {str(Path(torch.__file__).parents[1]), *sysconfig.get_paths().values()}
    (site / "installed.pth").write_text("\n".join([str(packages), *sorted(o for o in others if "site-packages" in o)]))
    return tmp_path / "venv" / "bin" / "python"


def test_an_editable_install_is_a_plain_path() -> None:
    """Type checkers follow a path, and no import hook; the kernels are inside the package by a link."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["package-dir"] == {"": "."}
    assert (ROOT / PACKAGE / "kernels").samefile(ROOT / "kernels") or (
        ROOT / PACKAGE / "kernels" / "__init__.py"
    ).is_file()


@pytest.mark.slow
def test_a_users_script_is_typed_strictly(tmp_path: Path, installed: Path) -> None:
    pytest.importorskip("mypy")
    script, config = tmp_path / "mine.py", tmp_path / "mypy.ini"
    script.write_text(USER)
    config.write_text("[mypy]\nstrict = true\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--python-executable", str(installed)]
    done = subprocess.run([*command, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    script.write_text(USER.replace("return outcome.test", "return outcome.nothing"))
    done = subprocess.run([*command, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert '"Run" has no attribute "nothing"' in done.stdout, "types are read at all"
