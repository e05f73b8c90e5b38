"""Pages of the API, one a room, from the docstrings, with badges of stability."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import infodcl_geo

ROOMS: dict[str, tuple[str, str, str]] = {
    "kernels": ("Kernels", "stable", "Fused operations, one a file: Triton kernels, their CPU twins, autograd."),
    "data": ("Data", "stable", "Interactions, their splits, readers, ids and named data sets."),
    "graph": ("Graphs", "stable", "Normalised graphs, similarity, spectral vectors and item-item weights."),
    "nn": ("Layers", "stable", "PSNet, diffusion, denoiser, losses, propagation: for any PyG model."),
    "channels": ("Channels", "stable", "What is known of items beside their interactions, and what it is worth."),
    "models": ("Models", "provisional", "What a model declares, and one file a model."),
    "evaluation": ("Evaluation", "stable", "Ranking, metrics, groups, significance."),
    "training": ("Training", "provisional", "Sampling, optimiser, loop, callbacks, checkpoints."),
    "report": ("Reports", "provisional", "The page of a folder of runs."),
    "cli": (
        "Command line",
        "internal",
        "One file a subcommand: parse, call, print. Its options are stable, its code is not.",
    ),
}
"""Title, stability and one line of each room, in the order in which they import each other."""

STABLE_MODULES = ("errors", "configuration", "experiment", "recommender")
"""Modules outside the rooms that keep their names; the others are provisional."""

LEVELS = {
    "stable": "names and meanings change only with a new major version",
    "provisional": "may change in a minor version, with a line in the changelog",
    "internal": "may change at any time",
}


def modules_of(package: ModuleType) -> list[str]:
    """Public modules below a package, and not in packages below it."""
    found = [info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg]
    return [f"{package.__name__}.{name}" for name in found if not name.startswith("_")]


def badge(level: str) -> str:
    return f'.. raw:: html\n\n   <p><span class="stability {level}">{level}</span> {LEVELS[level]}</p>\n'


def heading(text: str, sign: str) -> str:
    return f"{text}\n{sign * len(text)}\n"


def module_section(name: str) -> str:
    module = importlib.import_module(name)
    short = name.removeprefix("infodcl_geo.")
    options = "   :members:\n" if has_content(module) else "   :no-members:\n"
    return f"{heading(short, '-')}\n.. automodule:: {name}\n{options}"


def has_content(module: ModuleType) -> bool:
    return any(not name.startswith("_") for name in vars(module))


def room_page(room: str) -> str:
    title, level, line = ROOMS[room]
    package = importlib.import_module(f"infodcl_geo.{room}")
    parts = [heading(title, "="), badge(level), line + "\n"]
    public = list(getattr(package, "__all__", ()))
    if public:
        names = ", ".join(f"``{name}``" for name in public)
        parts.append(f"``infodcl_geo.{room}`` lends: {names}.\n")
    if room == "kernels":
        # The function infonce and its module share a name: what the package lends is what counts.
        parts.append(".. automodule:: infodcl_geo.kernels\n   :members:\n   :imported-members:\n")
    else:
        parts += [module_section(name) for name in modules_of(package)]
    return "\n".join(parts)


def top_page() -> str:
    parts = [heading("From data to numbers", "="), badge("stable")]
    rows = "\n".join(
        f"   * - ``{name}``\n     - :py:obj:`{path} <infodcl_geo.{path}.{name}>`"
        for name, path in infodcl_geo._WHERE.items()
    )
    parts.append("``infodcl_geo`` itself lends these names, which are loaded when asked for:\n")
    parts.append(f".. list-table::\n   :header-rows: 1\n\n   * - name\n     - where it lives\n{rows}\n")
    for name in modules_of(infodcl_geo):
        short = name.removeprefix("infodcl_geo.")
        level = "stable" if short in STABLE_MODULES else "provisional"
        module = importlib.import_module(name)
        parts.append(
            f"{heading(short, '-')}\n{badge(level)}\n.. automodule:: {name}\n   :members:\n" if module.__doc__ else ""
        )
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """reStructuredText of every page by its name."""
    found = {"top": top_page()}
    for room in ROOMS:
        try:
            importlib.import_module(f"infodcl_geo.{room}")
        except ModuleNotFoundError:
            continue
        found[room] = room_page(room)
    rooms = "\n".join(f"   {name}" for name in found)
    levels = "\n\n".join(badge(level) for level in LEVELS)
    index = (
        f"{heading('API', '=')}\nMade from the docstrings. Each room imports only from rooms before it in this list, "
        f"so they can be read in this order.\n\n.. toctree::\n   :maxdepth: 2\n\n{rooms}\n\n"
        f"How much a name can be relied on:\n\n{levels}\n"
    )
    return found | {"index": index}


def write(app: Any) -> None:
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def home_of(target: str) -> str | None:
    """Where the object that a dotted name leads to is defined, by the name it has there."""
    module_name, _, rest = target, "", ""
    while module_name:
        try:
            found: Any = importlib.import_module(module_name)
        except ImportError:
            module_name, _, last = module_name.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
            continue
        break
    else:
        return None
    try:
        for part in filter(None, rest.split(".")):
            found = getattr(found, part)
    except AttributeError:
        return None
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{name}" if module and name else None


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A link to what a package lends leads to where it is documented."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    home = home_of(target) if target.startswith("infodcl_geo") else None
    if home is None:
        return None
    domain = env.get_domain("py")
    for name in (home, home.replace("infodcl_geo.kernels." + home.split(".")[2], "infodcl_geo.kernels", 1)):
        if name in domain.objects and name != target:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    return None


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
