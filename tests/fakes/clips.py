"""Fakes of the released audio-visual layouts: real mp4 files (mpeg4 + aac) of a moving bar and a tone."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 40


def write_wav(path: Path, seconds: float = 1.0, frequency: float = 440.0, rate: int = 16000) -> Path:
    """A tone as 16-bit PCM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate)) / rate
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((0.3 * np.sin(2 * np.pi * frequency * t) * 2**15).astype("<i2").tobytes())
    return path


def frame(number: int, count: int, side: int = SIDE) -> np.ndarray:  # type: ignore[type-arg]
    """A white column that walks to the right on a dark red ground."""
    pixels = np.zeros((side, side + 8, 3), dtype=np.uint8)
    pixels[..., 0] = 60
    at = number * side // max(count, 1)
    pixels[:, at : at + 6] = 255
    return pixels


def write_mp4(
    path: Path, seconds: float = 1.0, frequency: float | None = 440.0, fps: int = 25, pictures: bool = True
) -> Path:
    """mpeg4 video of the bar and, with a frequency, an aac tone."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    count, rate = round(seconds * fps), 16000
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=fps) if pictures else None
        if video is not None:
            video.width, video.height, video.pix_fmt = SIDE + 8, SIDE, "yuv420p"
        sound = container.add_stream("aac", rate=rate, layout="mono") if frequency else None
        for i in range(count if video is not None else 0):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame(i, count), format="rgb24")))
        if video is not None:
            container.mux(video.encode())
        if sound is not None:
            t = np.arange(int(seconds * rate)) / rate
            tone = (0.3 * np.sin(2 * np.pi * float(frequency or 0) * t)).astype(np.float32)
            for start in range(0, len(tone), 1024):
                piece = av.AudioFrame.from_ndarray(
                    tone[None, start : start + 1024], format="fltp", layout="mono"
                )
                piece.sample_rate, piece.pts = rate, start
                container.mux(sound.encode(piece))
            container.mux(sound.encode())
    return path


def fake_vggsound(root: Path, per_split: int = 4, seconds: float = 1.0) -> Path:
    lines = []
    for i in range(2 * per_split):
        split = "train" if i < per_split else "test"
        name = f"id-_{i:02d}"
        write_mp4(root / "video" / f"{name}_{i:06d}.mp4", seconds, 300.0 + 400 * (i % 2))
        lines.append(f'{name},{i},"{("dog barking", "playing flute, solo")[i % 2]}",{split}')
    lines.append('gone_00,30,"dog barking",train')
    (root / "vggsound.csv").write_text("\n".join(lines) + "\n")
    return root


def fake_audioset(root: Path, per_split: int = 4, seconds: float = 1.0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    classes = [("/m/09x0r", "Speech"), ("/m/04rlf", "Music"), ("/m/0jbk", "Animal")]
    table = ["index,mid,display_name", *(f'{i},{m},"{n}"' for i, (m, n) in enumerate(classes))]
    (root / "class_labels_indices.csv").write_text("\n".join(table) + "\n")
    for part, offset in (("balanced_train", 0), ("eval", 50), ("unbalanced_train", 100)):
        lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=4"]
        lines += ["# YTID, start_seconds, end_seconds, positive_labels"]
        for i in range(offset, offset + per_split):
            mids = ",".join(m for k, (m, _) in enumerate(classes) if (i + k) % 3 != 0)
            lines.append(f'yt{i:03d}, {i}.000, {i + 10}.000, "{mids}"')
            if part != "unbalanced_train":
                write_mp4(root / "video" / f"yt{i:03d}_{i:06d}.mp4", seconds, 200.0 + 30 * i)
        (root / f"{part}_segments.csv").write_text("\n".join(lines) + "\n")
    return root


def fake_epic(root: Path, per_split: int = 4) -> Path:
    from PIL import Image

    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    )
    folder = root / "P01" / "rgb_frames" / "P01_01"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, 121):
        Image.fromarray(frame(i, 120)).save(folder / f"frame_{i:010d}.jpg")
    write_wav(root / "P01" / "audio" / "P01_01.wav", 4.0)
    for name, first in (("train", 0), ("validation", per_split)):
        lines = [header]
        for k in range(per_split):
            i = first + k
            start = 1 + 5 * i
            lines.append(
                f"P01_01_{i},P01,P01_01,00:00:00.10,00:00:0{i % 3}.50,00:00:0{i % 3 + 1}.20,"
                f"{start},{start + 40},"
                f"open door,open,{i % 97},door,{i % 300},\"['door']\",[{i % 300}]"
            )
        (root / f"EPIC_100_{name}.csv").write_text("\n".join(lines) + "\n")
    return root


def fake_kinetics(root: Path, per_split: int = 4, seconds: float = 1.0) -> Path:
    for part, offset in (("train", 0), ("val", 40)):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for i in range(offset, offset + per_split):
            lines.append(f"{('abseiling', 'zumba')[i % 2]},vid{i:02d},{i},{i + 10},{part}")
            write_mp4(root / part / f"vid{i:02d}_{i:06d}_{i + 10:06d}.mp4", seconds, 300.0 + 400 * (i % 2))
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root


def fake_moments(root: Path, per_split: int = 4, seconds: float = 1.0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "moments_categories.txt").write_text("clapping,0\npraying,1\n")
    for kind, offset in (("training", 0), ("validation", 40)):
        lines = []
        for i in range(offset, offset + per_split):
            label = ("clapping", "praying")[i % 2]
            lines.append(f"{label}/clip-{i}.mp4,{label},4,0")
            write_mp4(root / kind / label / f"clip-{i}.mp4", seconds, 300.0 + 400 * (i % 2))
        (root / f"{kind}Set.csv").write_text("\n".join(lines) + "\n")
    return root


FAKES = {
    "vggsound": fake_vggsound,
    "audioset": fake_audioset,
    "epic": fake_epic,
    "kinetics": fake_kinetics,
    "moments": fake_moments,
}


# 0.48 s of sound and 16 x 16 pixels
SMALL: dict[str, Any] = {
    "model.init_args.width": 16,
    "model.init_args.depth": 2,
    "model.init_args.heads": 2,
    "model.init_args.mlp": 16,
    "model.init_args.fusion_layer": 0,
    "model.init_args.image_size": 16,
    "model.init_args.patch_size": 8,
    "model.init_args.spectrogram_frames": 48,
    "model.init_args.pretrained": None,
    "model.init_args.mixup_groups": 1,
    "data.init_args.image_size": 16,
    "data.init_args.seconds": 0.48,
    "data.init_args.batch_size": 2,
    "data.init_args.eval_batch_size": 4,
    "data.init_args.num_workers": 0,
    "trainer.precision": "32-true",
}
OUTPUTS = {"audioset": 3, "vggsound": 2, "epic": 397, "kinetics": 2, "moments": 2}


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    layout = config["data"]["init_args"]["layout"]
    FAKES[layout](root)
    segments = root / "balanced_train_segments.csv"
    if segments.exists():
        # the clips of the balanced set: those of the other have no file
        (root / "unbalanced_train_segments.csv").write_text(segments.read_text())
    return {**SMALL, "model.init_args.num_classes": OUTPUTS[layout]}


TWINS = {"datamodules.AudioVisual": _twin}
# digits and tones, with sounds that are made or a package brings
WITHOUT_FILES = {"datamodules.AudioVisual": lambda data: "layout" not in data}
