"""The released file layouts of audio-visual data sets as lists of clips."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.audio_visual.media import SOUND, VIDEO
from datamodules.loading.files import one_line

Layout = Literal["vggsound", "audioset", "epic", "kinetics", "moments", "csv", "folder"]
Split = Literal["train", "val", "test"]
_MEDIA = (*VIDEO, *SOUND)
_LONGEST_LINE = 1 << 20
_MOST_FRAMES = 10**6  # numbered pictures of a clip, half a day at 25 a second
_EPIC_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "verb_class",
    "noun_class",
)


@dataclass(frozen=True)
class Clip:
    """A labelled piece of a file.

    Attributes:
        name: unique in the data set.
        label: classes; one for single labels, verb and noun for Epic-Kitchens.
        video: file with frames, a folder of numbered JPEGs, or None.
        audio: file with sound (may be the video), or None.
        start: seconds in the files.
        stop: seconds in the files; None is the end.
        frames: first and last number of the JPEGs.
    """

    name: str
    label: tuple[int, ...]
    video: Path | None
    audio: Path | None
    start: float = 0.0
    stop: float | None = None
    frames: tuple[int, int] | None = None


@dataclass
class ClipList:
    """Clips of a split, and what they are classes of.

    Attributes:
        clips: those whose files are there.
        class_names: of the labels.
        missing: names of listed clips without files.
        task: ``single_label``, ``multi_label`` or ``verb_noun``.
        groups: class counts of verb and noun.
    """

    clips: list[Clip]
    class_names: list[str]
    missing: list[str] = field(default_factory=list)
    task: str = "single_label"
    groups: tuple[int, ...] = ()


def read_layout(layout: str, root: Path, split: Split, **options: Any) -> ClipList:
    """The clips of a split.

    Args:
        layout: ``vggsound``, ``audioset``, ``epic``, ``kinetics``, ``moments``, ``csv`` or ``folder``.
        root: folder of the data set.
        split: ``test`` is the published validation or evaluation set; ``val`` is the same, but where the
            user's own csv or folders have both.
        **options: of the layout's reader: ``train_set`` of AudioSet, ``multi_label`` of csv.

    Raises:
        FileNotFoundError: a missing list or no file of any listed clip, with what is expected where.
        ValueError: a list of which no line can be parsed.
    """
    if layout not in READERS:
        raise ValueError(f"layout must be digits, {', '.join(READERS)}, got {layout!r}")
    found = READERS[layout](root, split, **options)
    listed = len(found.clips) + len(found.missing)
    if not found.clips:
        raise FileNotFoundError(
            f"none of the {listed:,} {split} clips of {layout} is under {root}: expected {EXPECTED[layout]}; "
            f"for example {found.missing[0] if found.missing else 'nothing is listed'}"
        )
    if found.missing:
        rank_zero_warn(
            f"{root}: {len(found.missing):,} of {listed:,} {split} clips have no file and are skipped, for "
            f"example {found.missing[0]}"
        )
    return found


# --- lists ---------------------------------------------------------------------------------------------


def _rows(path: Path, layout: str, **options: Any) -> Iterator[list[str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no list {path}: expected {EXPECTED[layout]}; set data.init_args.root (or the environment "
            "variable ZOO_DATA)"
        )
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            yield from csv.reader(_lines(path, file), **options)
        except csv.Error as error:
            raise ValueError(f"{path} is no comma-separated list ({one_line(error)})") from None


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines of a file; one without an end is refused before it is held."""
    while line := file.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"{path} has a line of more than {_LONGEST_LINE:,} characters, no list of clips")
        yield line


def _parsed(rows: Iterator[list[str]], parse: Callable[[list[str]], Any], path: Path) -> list[Any]:
    """Rows that parse; the others are counted in a warning that shows the first."""
    found, bad = [], []
    for row in rows:
        if not row or row[0].startswith("#"):
            continue
        try:
            found.append(parse(row))
        except (ValueError, IndexError, KeyError):
            bad.append(row)
    shown = one_line(",".join(bad[0]), 100) if bad else ""
    if bad and not found:
        raise ValueError(f"{path}: none of {len(bad):,} lines could be parsed, the first is {shown}")
    if bad:
        rank_zero_warn(f"{path}: {len(bad):,} lines could not be parsed, the first is {shown}")
    return found


def _first(*candidates: Path) -> Path | None:
    return next((c for c in candidates if c.exists()), None)


def _vggsound(root: Path, split: Split, **_: Any) -> ClipList:
    path = root / "vggsound.csv"

    def parse(row: list[str]) -> tuple[str, str, str]:
        if row[3] not in ("train", "test"):
            raise ValueError(row[3])
        return f"{row[0]}_{int(row[1]):06d}", row[2], row[3]

    rows = _parsed(_rows(path, "vggsound"), parse, path)
    names = sorted({label for _, label, _ in rows})
    place = {n: i for i, n in enumerate(names)}
    found = ClipList([], names)
    for name, label, part in rows:
        if part != ("train" if split == "train" else "test"):
            continue
        video = _first(root / "video" / f"{name}.mp4")
        audio = _first(root / "audio" / f"{name}.wav") or video
        _take(found, name, (place[label],), video, audio)
    return found


def _audioset(root: Path, split: Split, train_set: str = "balanced", **_: Any) -> ClipList:
    path = root / "class_labels_indices.csv"

    def label(row: list[str]) -> tuple[int, str, str]:
        return int(row[0]), row[1], row[2]

    rows = _rows(path, "audioset")
    next(rows, None)  # index,mid,display_name
    classes = sorted(_parsed(rows, label, path))
    place = {mid: i for i, (_, mid, _) in enumerate(classes)}
    segments = root / f"{f'{train_set}_train' if split == 'train' else 'eval'}_segments.csv"

    def segment(row: list[str]) -> tuple[str, float, float, tuple[int, ...]]:
        mids = row[3].split(",")
        return row[0], float(row[1]), float(row[2]), tuple(sorted(place[m] for m in mids))

    found = ClipList([], [name for _, _, name in classes], task="multi_label")
    for video_id, start, stop, labels in _parsed(
        _rows(segments, "audioset", skipinitialspace=True), segment, segments
    ):
        name = f"{video_id}_{int(start):06d}"
        cut = _first(*(root / d / f"{n}.mp4" for d in ("video", split) for n in (name, video_id)))
        audio = (
            _first(*(root / "audio" / f"{n}.{end}" for n in (name, video_id) for end in ("wav", "flac")))
            or cut
        )
        del stop  # the files are cut to the segment
        _take(found, name, labels, cut, audio)
    return found


def _epic(root: Path, split: Split, **_: Any) -> ClipList:
    path = root / f"EPIC_100_{'train' if split == 'train' else 'validation'}.csv"
    rows = _rows(path, "epic")
    header = next(rows, [])
    missing = [n for n in _EPIC_COLUMNS if n not in header]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; its header must be that of EPIC-KITCHENS-100")

    def parse(row: list[str]) -> tuple[dict[str, str], tuple[int, int], tuple[float, float]]:
        r = dict(zip(header, row, strict=False))
        times = _seconds(r["start_timestamp"]), _seconds(r["stop_timestamp"])
        if not (0 <= int(r["verb_class"]) < 97 and 0 <= int(r["noun_class"]) < 300):
            raise ValueError("class")
        frames = int(r["start_frame"]), int(r["stop_frame"])
        if not (0 <= frames[0] <= frames[1] < frames[0] + _MOST_FRAMES and times[0] <= times[1]):
            raise ValueError("interval")
        return r, frames, times

    verbs, nouns = _epic_names(root)
    found = ClipList([], verbs + nouns, task="verb_noun", groups=(97, 300))
    for r, frames, (start, stop) in _parsed(rows, parse, path):
        person, video_id = r["participant_id"], r["video_id"]
        folder = _first(root / person / "rgb_frames" / video_id)
        audio = _first(
            root / person / "audio" / f"{video_id}.wav",
            root / "audio" / f"{video_id}.wav",
            root / person / "videos" / f"{video_id}.MP4",
            root / person / "videos" / f"{video_id}.mp4",
        )
        label = (int(r["verb_class"]), int(r["noun_class"]))
        _take(found, r["narration_id"], label, folder, audio, start, stop, frames)
    return found


def _epic_names(root: Path) -> tuple[list[str], list[str]]:
    """Names of the classes, from ``EPIC_100_verb_classes.csv`` (id, key, ...) where it is there."""
    names = []
    for kind, count in (("verb", 97), ("noun", 300)):
        path, own = root / f"EPIC_100_{kind}_classes.csv", [f"{kind}_{i}" for i in range(count)]
        if path.is_file():
            rows = _rows(path, "epic")
            header = next(rows, [])
            if not {"id", "key"} <= set(header):
                raise ValueError(f"{path} needs columns id and key, has {', '.join(header)[:80]}")
            parse = partial(_numbered, header.index("id"), header.index("key"))
            given = dict(_parsed(rows, parse, path))
            own = [given.get(i, name) for i, name in enumerate(own)]
        names.append(own)
    return names[0], names[1]


def _numbered(number: int, name: int, row: list[str]) -> tuple[int, str]:
    """Number and name of a class, from these columns."""
    return int(row[number]), row[name]


def _seconds(text: str) -> float:
    hours, minutes, seconds = text.split(":")
    found = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if not 0 <= found < float("inf"):  # false of NaN
        raise ValueError(text)
    return found


def _kinetics(root: Path, split: Split, **_: Any) -> ClipList:
    part = "train" if split == "train" else "val"
    # the classes are those of the training list, also where validation lacks some
    lists = {s: _first(root / f"{s}.csv", root / f"kinetics_{s}.csv") for s in {"train", part}}

    def parse(row: list[str]) -> tuple[str, str]:
        return row[0], f"{row[1]}_{int(row[2]):06d}_{int(row[3]):06d}"

    read = {}
    for s, path in lists.items():
        path = path or root / f"{s}.csv"
        rows = _rows(path, "kinetics")
        next(rows, None)  # label,youtube_id,time_start,time_end,split
        read[s] = _parsed(rows, parse, path)
    names = sorted({label for label, _ in read["train"]})
    place = {n: i for i, n in enumerate(names)}
    found = ClipList([], names)
    for label, name in read[part]:
        video = _first(*(root / d / f"{name}.mp4" for d in (part, f"{part}/{label}", "video", "videos", ".")))
        if label in place:
            _take(found, name, (place[label],), video, video)
        else:
            found.missing.append(f"{name} (class {label} is not in the training list)")
    return found


def _moments(root: Path, split: Split, **_: Any) -> ClipList:
    categories = root / "moments_categories.txt"
    pairs = _parsed(_rows(categories, "moments"), lambda row: (int(row[1]), row[0]), categories)
    names = [name for _, name in sorted(pairs)]
    place = {n: i for i, n in enumerate(names)}
    kind = "training" if split == "train" else "validation"
    path = root / f"{kind}Set.csv"
    found = ClipList([], names)
    for file, label in _parsed(_rows(path, "moments"), lambda row: (row[0], place[row[1]]), path):
        video = _first(root / kind / file, root / file)
        _take(found, file, (label,), video, video)
    return found


def _csv(root: Path, split: Split, multi_label: bool = False, **_: Any) -> ClipList:
    path = root if root.is_file() else root / "clips.csv"
    folder = path.parent
    rows = _rows(path, "csv")
    header = [h.strip() for h in next(rows, [])]
    if "label" not in header or not {"video", "audio"} & set(header):
        raise ValueError(
            f"{path} needs columns label and video or audio (and split), has {', '.join(header)}"
        )

    def parse(row: list[str]) -> dict[str, str]:
        if len(row) != len(header):
            raise ValueError("columns")
        r = dict(zip(header, (x.strip() for x in row), strict=True))
        if not (r.get("video") or r.get("audio")):
            raise ValueError("no file")
        return r

    rows_read = _parsed(rows, parse, path)
    parts = _parts(rows_read, path)
    wanted = {split} if split == "train" or split in parts.values() else {"val", "test"}
    labels = [r["label"].split(";") if multi_label else [r["label"]] for r in rows_read]
    names = sorted({n for each in labels for n in each if n})
    place = {n: i for i, n in enumerate(names)}
    found = ClipList([], names, task="multi_label" if multi_label else "single_label")
    for number, (r, own) in enumerate(zip(rows_read, labels, strict=True)):
        name = r.get("video") or r["audio"]
        if parts[number] not in wanted if parts else _held_out(name) != (split != "train"):
            continue
        video = _first(folder / r["video"]) if r.get("video") else None
        audio = _first(folder / r["audio"]) if r.get("audio") else (video if "audio" not in header else None)
        _take(found, f"{number}_{name}", tuple(sorted(place[n] for n in own if n)), video, audio)
    return found


_SPLITS: dict[str, Split] = {"train": "train", "training": "train", "test": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")


def _parts(rows: list[dict[str, str]], path: Path) -> dict[int, Split]:
    """The split of each row; none where the list has no such column.

    Raises:
        ValueError: for an unknown word, rows without one among others, and a file of two splits.
    """
    given = [row.get("split", "").lower() for row in rows]
    if not any(given):
        return {}
    for row, word in zip(rows, given, strict=True):
        if word not in _SPLITS:
            what = f"is {word[:40]!r}" if word else "is missing, while other rows have one"
            raise ValueError(
                f"{path}: the split of {row.get('video') or row['audio']} {what}; it must be train, val or "
                "test"
            )
    parts = [_SPLITS[word] for word in given]
    of_file: dict[str, Split] = {}
    for row, part in zip(rows, parts, strict=True):
        for file in filter(None, (row.get("video"), row.get("audio"))):
            if of_file.setdefault(file, part) != part:
                raise ValueError(f"{path}: {file} is in {of_file[file]} and in {part}; a clip has one split")
    return dict(enumerate(parts))


def _folder(root: Path, split: Split, **_: Any) -> ClipList:
    parts = (split, "val", "test") if split != "train" else ("train",)
    base = _first(*(root / p for p in parts))
    divided = (root / "train").is_dir()
    home = (base or root) if divided else root
    if not home.is_dir():
        raise FileNotFoundError(f"no folder {home}: expected {EXPECTED['folder']}; set data.init_args.root")
    source = root / "train" if divided else root
    names = sorted(e.name for e in os.scandir(source) if e.is_dir() and not e.name.startswith("."))
    found = ClipList([], names)
    for label, name in enumerate(names):
        for path in sorted((home / name).rglob("*") if (home / name).is_dir() else []):
            if path.suffix.lower() not in _MEDIA:
                continue
            relative = path.relative_to(home).as_posix()
            if not divided and _held_out(relative) != (split != "train"):
                continue
            video = path if path.suffix.lower() in VIDEO else None
            beside = _first(path.with_suffix(".wav"), path.with_suffix(".flac")) if video else None
            if video is None and _first(*(path.with_suffix(s) for s in VIDEO)):
                continue  # the sound of a video beside it
            _take(found, relative, (label,), video, beside or path)
    return found


def _held_out(name: str) -> bool:
    """Without a split, a tenth by the name's hash is held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 10 == 0


def listed_files(path: Path) -> ClipList:
    """A file, or the media files of a folder, without labels: what ``zoo predict`` classifies."""
    if not path.exists():
        raise FileNotFoundError(f"data.init_args.predict_files: no {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _MEDIA)
    if not files:
        raise FileNotFoundError(f"data.init_args.predict_files: {path} holds no {', '.join(_MEDIA)}")
    found = ClipList([], [])
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        _take(found, name, (), file if file.suffix.lower() in VIDEO else None, file)
    return found


def _take(
    found: ClipList,
    name: str,
    label: Sequence[int],
    video: Path | None,
    audio: Path | None,
    start: float = 0.0,
    stop: float | None = None,
    frames: tuple[int, int] | None = None,
) -> None:
    if video is None and audio is None:
        found.missing.append(name)
    else:
        found.clips.append(Clip(name, tuple(label), video, audio, start, stop, frames))


OWN_SPLITS = ("csv", "folder")
"""Layouts of the user's own, which may have validation and test apart."""
READERS: dict[str, Callable[..., ClipList]] = {
    "vggsound": _vggsound,
    "audioset": _audioset,
    "epic": _epic,
    "kinetics": _kinetics,
    "moments": _moments,
    "csv": _csv,
    "folder": _folder,
}
EXPECTED = {
    "vggsound": "vggsound.csv and video/<id>_<start:06d>.mp4 (audio/<id>_<start:06d>.wav)",
    "audioset": (
        "class_labels_indices.csv, balanced_train_segments.csv, eval_segments.csv and "
        "video/<YTID>_<start:06d>.mp4 or video/<YTID>.mp4, cut to the segment (audio/ with .wav or .flac)"
    ),
    "epic": (
        "EPIC_100_train.csv, EPIC_100_validation.csv, P01/rgb_frames/P01_01/frame_0000000001.jpg and "
        "P01/audio/P01_01.wav or P01/videos/P01_01.MP4"
    ),
    "kinetics": "train.csv, val.csv and train/<id>_<start:06d>_<end:06d>.mp4, val/...",
    "moments": "moments_categories.txt, trainingSet.csv, validationSet.csv, training/ and validation/",
    "csv": "clips.csv with columns video, audio, label (and split), paths relative to it",
    "folder": "train/CLASS/NAME.mp4 and val/CLASS/NAME.mp4, or CLASS/NAME.mp4 (also wav, flac)",
}
