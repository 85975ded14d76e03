"""Docs and README: every number in a table comes from the manifest or is marked as the paper's."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import datamodules
import zoo
from zoo.evidence import manifest
from zoo.hub.catalog import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "pages").glob("*.md"))
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


def docs_module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook, declarations, gallery = map(docs_module, ("results_hook", "declarations", "gallery"))


def unaccounted_numbers(text: str) -> list[str]:
    """Cells of tables that are a bare number: not a placeholder, not in a block marked as the paper's."""
    ours = re.sub(r"<!-- paper -->.*?<!-- /paper -->", "", text, flags=re.S)
    cells = [
        c.strip() for line in ours.splitlines() if line.startswith("|") for c in line.strip("|").split("|")
    ]
    return [
        c
        for c in cells
        if re.fullmatch(r"[-+]?[\d.,]+( ?(%|s|min|x|MB|GiB|samples/s))?", c) and any(d.isdigit() for d in c)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_tables_take_their_numbers_from_the_manifest(page: Path) -> None:
    assert unaccounted_numbers(page.read_text()) == []
    hook.fill(page.read_text())  # raises for a number that no command made


def test_readme_table_numbers_are_in_the_manifest() -> None:
    entries = [entry for path in RESULTS for entry in manifest.read(path)]
    values = {entry["value"] for entry in entries if isinstance(entry["value"], int | float)}
    for cell in unaccounted_numbers((ROOT / "README.md").read_text()):
        digits = len(cell.partition(".")[2])
        assert any(f"{value:.{digits}f}" == cell for value in values), f"{cell} is in no docs/results file"


def test_check_finds_a_number_without_an_entry() -> None:
    assert unaccounted_numbers("| a | 3.14 |\n|---|---|") == ["3.14"]
    assert unaccounted_numbers("<!-- paper -->\n| 2.27 |\n<!-- /paper -->\n| {{ x/y }} |") == []
    with pytest.raises(KeyError, match="no results file"):
        hook.fill("{{ nowhere/metric }}")


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_manifest_entries_are_complete(path: Path) -> None:
    for entry in manifest.read(path):
        assert entry["command"].startswith(("zoo ", "pytest ", "python tests/"))
        assert entry["versions"]["torch"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])


def test_readme_table_follows_from_the_declarations() -> None:
    text = (ROOT / "README.md").read_text()
    assert text == declarations.with_table(text), "run `python docs/declarations.py` and commit README.md"


def test_readme_table_has_every_config_of_every_method_once() -> None:
    """By the shell itself, since the braces are its own."""
    rows = [line.split(" | ") for line in declarations.table().splitlines()[2:]]
    for column, on_laptop in ((2, True), (3, False)):
        patterns = [p for row in rows for p in re.findall(r"`([^`]+)`", row[column])]
        names = subprocess.run(["bash", "-c", "echo " + " ".join(patterns)], capture_output=True, text=True)
        listed = {f"zoo.{m.name}" for _, m in zoo._DECLARED.values() if m.page}
        expected = [
            n for n, cls, laptop in declarations.config_classes() if cls in listed and laptop == on_laptop
        ]
        assert sorted(names.stdout.split()) == sorted(expected)
        assert len(expected) >= 40


def test_names_that_differ_in_one_word_fold() -> None:
    names = ["a_l_x", "a_l_y", "a_s_x", "a_s_y", "a", "b", "a_l"]
    assert declarations.folded(names) == ["{a,b}", "a_l", "a_{l,s}_{x,y}"]
    assert declarations.folded([]) == []


def test_a_config_is_a_laptops_by_its_header() -> None:
    laptop = {name: on_laptop for name, _, on_laptop in declarations.config_classes()}
    assert all(laptop[entry["config"]] for entry in registry().values())  # trained offline
    for name in ("lds_digits", "gnn_node_gcn_cora", "gaug_m_airport", "dtr_dit_l", "gnn_chickenpox"):
        assert not laptop[name]
    for path in (ROOT / "configs").glob("*.yaml"):
        assert "Hardware: " in path.read_text(), f"{path.name} does not say what it runs on"


def test_every_declared_method_has_a_page_and_every_page_a_place() -> None:
    nav = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text())["nav"]
    places = re.findall(r"'(\w+)\.md'", str(declarations.on_config({"nav": nav})))
    assert sorted(places) == sorted(p.stem for p in PAGES)
    assert {m.page for _, m in zoo._DECLARED.values()} - {""} <= set(places)


def test_the_gallery_has_an_entry_for_each_page_of_methods() -> None:
    cards = gallery.gallery().split("<section")[1:]
    found = [re.findall(r"^## \[.+\]\((\w+)\.md\)$", card, flags=re.M) for card in cards]
    assert found == [[page] for page in dict.fromkeys(m.page for _, m in zoo._DECLARED.values() if m.page)]
    for (page,), card in zip(found, cards, strict=True):
        text = (ROOT / "docs/pages" / f"{page}.md").read_text()
        pictures = re.findall(r"!\[[^\]]*\]\((img/.+?)\)", text)
        assert (
            f"]({pictures[0]})](" in card if pictures else text.partition("\n> ")[2].splitlines()[0] in card
        )
    assert "gallery.md" in (ROOT / "docs/pages/index.md").read_text()


def test_the_gallery_tells_every_claim_and_its_verdict() -> None:
    text = gallery.gallery()
    counted = {
        w: sum(map(int, re.findall(rf"^\*\*{w}\*\* \((\d+)\)", text, flags=re.M))) for w in gallery.VERDICTS
    }
    assert sum(counted.values()) == len(list((ROOT / "configs/claims").glob("*.yaml")))
    recorded = [
        str(entry["value"]).partition(" (")[0]
        for path in RESULTS
        if path.stem.startswith("claim_")
        for entry in manifest.read(path)
        if entry["metric"] == "verdict"
    ]
    assert {w: n for w, n in counted.items() if w != "not run here"} == {
        w: recorded.count(w) for w in gallery.VERDICTS if w != "not run here"
    }
    assert re.search(r"\*\*reproduced\*\* \(\d\): .*Active-NER on NCBI-disease", text)
    assert "fair protocol (half a week of 16 cores)" in text


def test_the_gallery_follows_results_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "RESULTS", tmp_path)
    monkeypatch.setattr(gallery, "PAGES", tmp_path)
    assert gallery.verdict_of("x", "not run here, a week") == "not run here"
    with pytest.raises(ValueError, match="neither a result nor a status"):
        gallery.verdict_of("x", "")
    for word, verdict in (
        ("not reproduced", "not reproduced"),
        ("no verdict (quick)", "no verdict"),
        ("yes", ""),
    ):
        (tmp_path / "claim_x.json").write_text(f'[{{"metric": "verdict", "value": "{word}"}}]')
        if verdict:
            assert gallery.verdict_of("x", "") == verdict
    with pytest.raises(ValueError, match="'yes' is no verdict"):
        gallery.verdict_of("x", "")
    assert gallery.shown("m", "# M\n\n> *gold* one\n> two\n\nmore\n\n> three") == "> *gold* one\n> two"
    with pytest.raises(ValueError, match="neither a picture nor a quoted piece of text"):
        gallery.shown("m", "# M\n\nwords")
    with pytest.raises(ValueError, match=r"m\.md shows img/m\.png, which is not there"):
        gallery.shown("m", "# M\n\n> text\n\n![x](img/m.png){ width=4 }")


def test_the_gallery_says_what_a_method_does_and_not_how_its_paper_is_called() -> None:
    page = "# M\n\nA Title (Ada, Byron, ICML 2020): a tagger that asks. It is {}.\n\n```\nzoo fit\n```\n"
    assert gallery.what(page.format("small")) == "A tagger that asks. It is small."
    assert gallery.what(page.format("x" * 90 + ". No more")).endswith("x.")
    other = "# M\n\nA Title (Wu et al., 2021) on Another (Li, 2020).\n\n{} Wu et al. (2021) is kept:\n\n## R"
    assert gallery.what(other.format("Of")) == "Of Wu et al. (2021) is kept ..."
    assert gallery.what(other.format("x" * 90)).endswith("al. (2021) is kept ...")
    assert (
        gallery.what("# M\n\nIt spans components (Baldi 1989).\n\n`zoo fit`")
        == "It spans components (Baldi 1989)."
    )


def test_the_page_of_the_api_names_every_public_class_and_idea() -> None:
    entries = re.findall(r"^::: ([\w.]+)$", declarations.api(), flags=re.M)
    assert len(entries) == len(set(entries))
    homes = {zoo._METHODS[m.name] + "." + m.name for _, m in zoo._DECLARED.values() if m.page}
    assert homes <= set(entries)
    assert set(datamodules._NAMES.values()) <= set(entries)
    assert {"zoo.dtr.routing", "zoo.mbt.bottleneck", "zoo.lds.bilevel", "zoo.gaug.edges"} <= set(entries)
    assert not {"zoo.dtr.weights", "zoo.dtr.module", "zoo.hub.convert"} & set(entries)
    page = (ROOT / "docs/pages/api.md").read_text()
    for entry in re.findall(r"^::: ([\w.]+)$", page, flags=re.M):
        assert entry not in entries


def test_docstrings_are_read_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """mkdocs is strict about them: an argument a line, of a name that the signature has."""
    griffe = pytest.importorskip("griffe", reason="the extra docs is not installed")

    def read(node: Any) -> int:
        own = (member for member in node.members.values() if not member.is_alias)
        return len(node.docstring.parse("google") if node.docstring else ()) + sum(map(read, own))

    assert sum(read(griffe.load(name, search_paths=[ROOT])) for name in ("zoo", "datamodules")) > 2000
    assert [record.getMessage() for record in caplog.records] == []


def test_type_checkers_know_every_declared_class() -> None:
    for package, names in ((zoo, zoo._METHODS), (datamodules, datamodules._NAMES)):
        source = Path(str(package.__file__)).read_text()
        for name, module in names.items():
            line = f"    from {module} import {name} as {name}\n"
            assert line in source, f"add to the TYPE_CHECKING block of {package.__name__}/__init__.py: {line}"


def test_pages_name_tests_that_exist() -> None:
    code = "".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    named = {n for page in PAGES for n in re.findall(r"`(test_\w+)`", page.read_text())}
    assert named
    assert [n for n in sorted(named) if f"def {n}(" not in code] == []


def test_readme_commands_use_the_constraints() -> None:
    commands = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv")
    ]
    assert len(commands) == 2
    assert all("-c constraints.txt" in c for c in commands)


def test_no_machine_paths_in_docs_or_configs() -> None:
    files = [*PAGES, ROOT / "README.md", *(ROOT / "configs").rglob("*.yaml"), *RESULTS]
    assert [f.name for f in files if re.search(r"(/work/|/root/|/tmp/|/home/)", f.read_text())] == []


def test_update_replaces_an_entry_of_the_same_metric_and_command(tmp_path: Path) -> None:
    entry = {
        "metric": "m",
        "value": 1.0,
        "seeds": [0],
        "command": "zoo test",
        "versions": {},
        "date": "2026-01-01",
    }
    path = tmp_path / "r.json"
    manifest.update(path, [entry, {**entry, "metric": "n"}])
    manifest.update(path, [{**entry, "value": 2.0}])
    assert {e["metric"]: e["value"] for e in manifest.read(path)} == {"m": 2.0, "n": 1.0}
