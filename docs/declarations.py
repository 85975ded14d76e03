"""What the declarations of the methods say to the docs: navigation, Python API, README's table.

A mkdocs hook for the first two. `python docs/declarations.py` writes the table anew.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the docs are those of this checkout, not of an installed package

import datamodules  # noqa: E402
import zoo  # noqa: E402
from zoo.declaration import Method  # noqa: E402
from zoo.hub.catalog import registry  # noqa: E402

README = ROOT / "README.md"
START, END = "<!-- declarations: python docs/declarations.py -->\n", "<!-- /declarations -->\n"
SHARED = ("zoo.diffusion", "zoo.metrics", "zoo.nn")
"""Rooms that methods share; the folders of data modules and of methods are found."""


def packages() -> dict[str, list[Method]]:
    """Package -> its methods with a page."""
    found: dict[str, list[Method]] = {}
    for package, method in zoo._DECLARED.values():
        if method.page:
            found.setdefault(package, []).append(method)
    return found


def navigation() -> list[dict[str, Any]]:
    """Sections of methods: a page each, families of tasks in sections of their own."""
    methods: dict[str, str] = {}
    families = []
    for package, members in packages().items():
        pages = {m.title: f"{m.page}.md" for m in members}
        if family := getattr(sys.modules[package], "FAMILY", None):
            families.append({family.title: [{"Overview": f"{family.page}.md"}, *_entries(pages)]})
        else:
            methods |= pages
    return [{"Methods": _entries(methods)}, *families]


def _entries(pages: dict[str, str]) -> list[dict[str, str]]:
    return [{title: page} for title, page in pages.items()]


def api() -> str:
    """Body of the page of the Python API: every room whose functions and classes have docstrings.

    The classes of a method come first. The room that reads other projects' files is for `zoo convert` alone.
    """
    lines = []
    for package, members in packages().items():
        title = getattr(sys.modules[package], "FAMILY", members[0]).title
        hidden = {f"{package}.{m.module}" for m in members} | {f"{package}.{m.weights}" for m in members}
        lines += [f"## {title}", *(f"::: {package}.{m.module}.{m.name}" for m in members)]
        lines += [f"::: {room}" for room in rooms(package) if room not in hidden]
    for title, homes in (("Shared by methods", SHARED), ("Data", _folders(datamodules))):
        lines += [f"## {title}", *(f"::: {room}" for home in homes for room in rooms(home))]
    return "\n\n".join(lines)


def _folders(package: Any) -> list[str]:
    (folder,) = package.__path__
    return sorted(f"{package.__name__}.{p.parent.name}" for p in Path(folder).glob("*/__init__.py"))


def rooms(package: str) -> Iterator[str]:
    """Modules below a package that say something to others."""
    for path in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
        public = (
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        )
        if path.name != "__init__.py" and any(map(ast.get_docstring, public)):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def table() -> str:
    """README's table of methods: one row for methods of one package with the same words."""
    rows: dict[tuple[str, str], list[Method]] = {}
    for package, members in packages().items():
        for method in members:
            rows.setdefault((package, method.about), []).append(method)
    lines = [
        "| method | paper | laptop, offline | with data files or a GPU | weights |",
        "|---|---|---|---|---|",
    ]
    for (_, about), members in rows.items():
        names = {f"zoo.{m.name}" for m in members}
        configs = [(n, laptop) for n, cls, laptop in config_classes() if cls in names]
        bundled = any(e["method"] in names for e in registry().values())
        weights = dict.fromkeys(["bundled"] * bundled + [m.converts for m in members if m.converts])
        cells = [
            ", ".join(f"`zoo.{m.name}`" for m in members),
            about,
            *(", ".join(f"`{f}`" for f in folded([n for n, x in configs if x == y])) for y in (True, False)),
            "; ".join(weights),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def config_classes() -> Iterator[tuple[str, str, bool]]:
    """(name, class of the model, whether a laptop runs it offline) of each config.

    A laptop does where the header asks for no GPU and names no files: "Hardware: any CPU" or "one CPU core"
    and no "Data:".
    """
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        text = path.read_text()
        header = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
        laptop = bool(re.search(r"Hardware: (any CPU|one CPU core)", header)) and "Data: " not in header
        (cls,) = re.findall(r"^model:\n  class_path: (\S+)", text, flags=re.M)
        yield path.stem, cls, laptop


def folded(names: Sequence[str]) -> list[str]:
    """Names that differ in one word as one, in the braces of a shell: ``dit_{l,xl}``."""
    patterns: list[tuple[tuple[str, ...], ...]] = [tuple((w,) for w in n.split("_")) for n in sorted(names)]
    for place in reversed(range(max(map(len, patterns), default=0))):
        groups: dict[Any, tuple[str, ...]] = {}  # by the other words and by length, for shorter names
        for p in patterns:
            key = (p[:place], p[place + 1 :], len(p))
            groups[key] = groups.get(key, ()) + (p[place] if place < len(p) else ())
        patterns = [
            (*before, words, *after) if words else before for (before, after, _), words in groups.items()
        ]
    return ["_".join(w[0] if len(w) == 1 else f"{{{','.join(w)}}}" for w in p) for p in patterns]


def with_table(text: str) -> str:
    """README with the table of now.

    Raises:
        ValueError: without the two markers.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md must hold the lines {START.strip()} and {END.strip()}")
    return before + start + table() + end + after


def on_config(config: Any, **kwargs: Any) -> Any:
    """mkdocs calls this first: `Methods: declared` becomes the pages of the methods."""
    place = config["nav"].index({"Methods": "declared"})
    config["nav"][place : place + 1] = navigation()
    return config


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """mkdocs calls this for each page."""
    return markdown.replace("<!-- declarations -->", api()) if page.file.src_uri == "api.md" else markdown


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
