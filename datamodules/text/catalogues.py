"""Compiled gettext catalogues, and the pairs of two languages in those of a package."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from datamodules.loading.files import check_claim
from datamodules.text.exchanges import Exchange

_MAGIC = {0x950412DE: "<", 0xDE120495: ">"}
# names that a program fills in, marks of keyboard shortcuts, HTML
_NOISE = re.compile(r"%(?:\(\w+\))?[-#0 +]*\d*(?:\.\d+)?[a-zA-Z%]|\{\w*\}|<[^<>]*>|&\w+;|&")


def catalogue_pairs(folder: Path, source: str, target: str) -> list[Exchange]:
    """Pairs of the catalogues under a package's folder, unique by their cleaned source text.

    The keys are English. Of two other languages, texts with one key are a pair.

    Raises:
        ValueError: for a package without catalogues of a language.
    """
    columns = []
    for language in (source, target):
        paths = sorted(folder.rglob(f"locale/{language}/LC_MESSAGES/*.mo"))
        if not paths and language != "en":
            known = sorted({p.parts[-3] for p in folder.rglob("locale/*/LC_MESSAGES/*.mo")})
            raise ValueError(
                f"{folder} has no catalogues locale/{language}/LC_MESSAGES/*.mo, only of "
                f"{', '.join(known) or 'none'}"
            )
        found: dict[tuple[str, str, int], str] = {}
        for path in paths if language != "en" else ():
            module = path.relative_to(folder).parts[:-4]
            for key, texts in read_catalogue(path).items():
                for number, text in enumerate(texts):
                    found["/".join((*module, path.stem)), key, number] = text
        columns.append(found)
    keyed = columns[0] or columns[1]
    pairs: dict[str, str] = {}
    for place in keyed:
        texts = [c.get(place, "") if c else _english(place[1], place[2]) for c in columns]
        first, second = map(clean, texts)
        if first and second:
            pairs.setdefault(first, second)
    return [Exchange((a,), b) for a, b in pairs.items()]


def _english(key: str, number: int) -> str:
    forms = key.split("\x04", 1)[-1].split("\0")
    return forms[min(number, len(forms) - 1)]


def clean(text: str) -> str:
    """Without names to fill in, HTML, marks of shortcuts, line ends."""
    text = " ".join(_NOISE.sub(" ", text).split())
    return re.sub(r" ([.,:;])", r"\1", text)


def read_catalogue(path: Path) -> dict[str, list[str]]:
    """The texts of a compiled gettext catalogue: key -> its plural forms, one where it has none.

    A key with a message context reads ``context\\x04text``, one with a plural ``one\\0many``. The header,
    whose key is empty, is left out. The plural rule, a program, is not looked at.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no catalogue {path}")
    check_claim(path, "the file", path.stat().st_size)
    content = path.read_bytes()
    order = _MAGIC.get(int.from_bytes(content[:4], "little"))
    if order is None or len(content) < 20:
        raise ValueError(f"{path} is no gettext catalogue (.mo)")
    _, count, keys, values = struct.unpack(f"{order}4I", content[4:20])
    if max(keys, values) + 8 * count > len(content):
        raise ValueError(f"{path} is damaged: it claims {count:,} texts, which do not fit into it")
    found = {}
    for number in range(count):
        both = []
        for table in (keys, values):
            size, start = struct.unpack(f"{order}2I", content[table + 8 * number : table + 8 * number + 8])
            if start + size > len(content):
                raise ValueError(f"{path} is damaged: text {number} ends behind the file")
            try:
                both.append(content[start : start + size].decode("utf-8"))
            except UnicodeDecodeError:
                raise ValueError(f"{path}: text {number} is not in UTF-8") from None
        if both[0]:
            found[both[0]] = both[1].split("\0")
    return found
