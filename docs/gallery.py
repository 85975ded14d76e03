"""mkdocs hook: `<!-- gallery -->` becomes an entry for each page of methods.

All of it is found: the pages by what methods declare, the picture, the words and the text by the page, the
verdicts by the claim files and docs/results. A page without a picture shows a piece of text that its method
has written, its first quotation.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the docs are those of this checkout, not of an installed package

import zoo  # noqa: E402
from zoo.declaration import Method  # noqa: E402

PAGES, CLAIMS, CONFIGS, RESULTS = (
    ROOT / path for path in ("docs/pages", "configs/claims", "configs", "docs/results")
)
VERDICTS = ("reproduced", "undecided", "not reproduced", "no verdict", "not run here")
ENOUGH = 90
"""Characters that say what a method does."""
_PICTURE = re.compile(r"!\[([^\]]*)\]\((img/[^)\s]+)\)")


def pages() -> dict[str, list[Method]]:
    """Page -> its methods."""
    found: dict[str, list[Method]] = {}
    for _, method in zoo._DECLARED.values():
        if method.page:
            found.setdefault(method.page, []).append(method)
    return found


def shown(page: str, text: str) -> str:
    """The first picture of a page, which leads to it, or its first quotation.

    Raises:
        ValueError: for a page without either, or whose picture is not there.
    """
    if match := _PICTURE.search(text):
        if not (PAGES / match[2]).is_file():
            raise ValueError(f"{page}.md shows {match[2]}, which is not there")
        return f"[![{match[1]}]({match[2]})]({page}.md)"
    quotation = re.search(r"(?:^>.*\n?)+", text, flags=re.M)
    if quotation is None:
        raise ValueError(f"{page}.md has neither a picture nor a quoted piece of text for the gallery")
    return quotation[0].rstrip()


def what(text: str) -> str:
    """What a method does: the first sentences of its page, the paper's name and reference aside."""
    prose = []
    for paragraph in text.split("\n\n")[1:]:
        if paragraph.startswith(("```", "`zoo ", "!", "#", "|", ">", "-")):
            break
        prose.append(" ".join(paragraph.split("\n```")[0].split()))
    words = every = " ".join(prose)
    words = re.sub(r"^[^.?]*?\([^()]*\d{4}\)(?:[:.,] | (?=on ))", "", words)  # Title (authors, venue year):
    said = ""
    for sentence in re.findall(r".+?(?:(?<! al)[.?](?=\s|$)|$)", words):
        if re.fullmatch(r"\s*(?:on )?[^.]*\([^()]*\d{4}\)\.", sentence):
            continue
        said = f"{said} {sentence.strip()}".strip()
        if len(said) >= ENOUGH:
            break
    said = said or every  # the words that cite the paper are all there is
    said = said if said.endswith((".", "?")) else said.rstrip(",:; ") + " ..."
    return said[:1].upper() + said[1:]


def claims() -> Iterator[tuple[str, str, str]]:
    """(class of its model, title with the reason where a verdict is missing or doubtful, verdict) of each
    shipped claim."""
    for path in sorted(CLAIMS.glob("*.yaml")):
        claim = yaml.safe_load(path.read_text())
        config = claim.get("config") or next(a["config"] for a in claim["arms"].values() if "config" in a)
        model = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["model"]["class_path"]
        status = claim.get("status", "")
        why = status.removeprefix("not run here").strip(" ,;:")
        yield model, claim["title"] + (f" ({why})" if why else ""), verdict_of(path.stem, status)


def verdict_of(claim: str, status: str) -> str:
    """The recorded verdict of a claim, or that there is none.

    Raises:
        ValueError: for a word that is none of the verdicts.
    """
    path = RESULTS / f"claim_{claim}.json"
    if not path.is_file():
        if not status.startswith("not run here"):
            raise ValueError(f"configs/claims/{claim}.yaml has neither a result nor a status")
        return "not run here"
    (word,) = (e["value"] for e in json.loads(path.read_text()) if e["metric"] == "verdict")
    verdict = "no verdict" if str(word).startswith("no verdict") else str(word)
    if verdict not in VERDICTS:
        raise ValueError(f"docs/results/claim_{claim}.json: {word!r} is no verdict")
    return verdict


def gallery() -> str:
    """The entries, as cards."""
    found = list(claims())
    cards = []
    for page, methods in pages().items():
        text = (PAGES / f"{page}.md").read_text()
        own = [(title, word) for cls, title, word in found if cls in {f"zoo.{m.name}" for m in methods}]
        lines = [
            f"## [{methods[0].title}]({page}.md)",
            shown(page, text),
            what(text),
            *(f"*{about}*" for about in dict.fromkeys(m.about for m in methods)),
            *_verdicts(own),
        ]
        cards.append('<section markdown="1">\n\n' + "\n\n".join(lines) + "\n\n</section>")
    known = {f"zoo.{m.name}" for methods in pages().values() for m in methods}
    rest = [(title, word) for cls, title, word in found if cls not in known]
    others = ["Claims about no method of a page of its own:", *_verdicts(rest)] if rest else []
    return "\n\n".join(['<div class="gallery" markdown="1">', *cards, "</div>", *others])


def _verdicts(own: list[tuple[str, str]]) -> Iterator[str]:
    for word in VERDICTS:
        if titles := [title for title, verdict in own if verdict == word]:
            yield f"**{word}** ({len(titles)}): " + "; ".join(titles)
    if not own:
        yield "No claim file."


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """mkdocs calls this for each page."""
    return markdown.replace("<!-- gallery -->", gallery()) if page.file.src_uri == "gallery.md" else markdown
