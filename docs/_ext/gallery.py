"""A gallery of the examples: a page each, with its code, and what it prints and draws when the site is built."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FAST = "INFODCL_GEO_DOCS_FAST"
"""Environment variable that leaves out running the examples."""

SHORT: dict[str, list[str]] = {
    "serve": ["--epochs", "10"],
    "quickstart": ["--epochs", "20"],
    "custom_channel": ["--epochs", "10"],
    "knowledge": ["--epochs", "5"],
    "modal": ["--epochs", "10"],
    "social": ["--epochs", "10"],
}
"""What is given to an example so that all of them together take a minute or two."""

ORDER = (
    "quickstart",
    "own_model",
    "custom_channel",
    "social",
    "knowledge",
    "modal",
    "psnet_in_pyg",
    "schedules",
    "theory_renoising",
    "theory_preference",
    "serve",
)


def examples(folder: Path) -> list[Path]:
    """The examples, those that :data:`ORDER` knows first."""
    found = sorted(folder.glob("*.py"), key=lambda p: (ORDER.index(p.stem) if p.stem in ORDER else len(ORDER), p.stem))
    return [path for path in found if not path.stem.startswith("_")]


def documentation(path: Path) -> tuple[str, str]:
    """The first sentence of an example's docstring, and the rest."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or path.stem
    title, _, rest = text.partition(": ``")
    if rest:
        rest = f"Run it by ``{rest}"
    else:
        title, _, rest = text.partition("\n")
    return title.strip().rstrip("."), rest.strip()


def run(path: Path, folder: Path) -> str:
    """What an example prints; its pictures go into ``folder``.

    Raises:
        RuntimeError: if it fails.
    """
    options = SHORT.get(path.stem, [])
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(path.resolve()), *options],
            cwd=place,
            capture_output=True,
            text=True,
            env={**os.environ, "MPLBACKEND": "Agg"},
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{path.name} failed:\n{done.stderr}")
        for picture in sorted(Path(place).glob("*.png")):
            (folder / f"{path.stem}_{picture.name}").write_bytes(picture.read_bytes())
    return done.stdout


def page(path: Path, folder: Path, fast: bool) -> str:
    """reStructuredText of one example."""
    title, rest = documentation(path)
    parts = [f"{title}\n{'=' * len(title)}\n", f"{rest}\n"]
    if fast:
        parts.append("It was not run when this page was built.\n")
    else:
        for old in folder.glob(f"{path.stem}_*.png"):
            old.unlink()
        printed = run(path, folder).rstrip()
        options = " ".join(SHORT.get(path.stem, []))
        said = f"Printed when this page was built{f', with ``{options}``' if options else ''}:"
        parts.append(
            f"{said}\n\n.. code-block:: text\n\n" + "\n".join(f"   {line}" for line in printed.splitlines()) + "\n"
        )
    parts += [f".. image:: {picture.name}\n   :alt: {title}\n" for picture in sorted(folder.glob(f"{path.stem}_*.png"))]
    parts.append(f".. literalinclude:: ../../examples/{path.name}\n   :language: python\n")
    return "\n".join(parts)


def write(app: Any) -> None:
    fast = os.environ.get(FAST, "") not in ("", "0")
    folder = Path(app.srcdir) / "gallery"
    folder.mkdir(exist_ok=True)
    names = []
    for path in examples(Path(app.srcdir).parent / "examples"):
        names.append(path.stem)
        target = folder / f"{path.stem}.rst"
        stamp = max(path.stat().st_mtime, Path(__file__).stat().st_mtime)
        # In the fast mode a page with output is kept as long as its example is what it was.
        if fast and target.exists() and target.stat().st_mtime > stamp:
            continue
        target.write_text(page(path, folder, fast), encoding="utf-8")
    listed = "\n".join(f"   {name}" for name in names)
    index = (
        "Examples\n========\n\nEach is one file of the folder ``examples``. What they print, and their pictures, were "
        f"made when this site was built.\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n"
    )
    (folder / "index.rst").write_text(index, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
