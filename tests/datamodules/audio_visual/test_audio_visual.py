"""Audio-visual data: front end, media, released layouts, cache, augmentation, embedded digits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.clips import FAKES, fake_vggsound, write_mp4, write_wav

import cli
import zoo
from datamodules import AudioVisual
from datamodules.audio_visual import digits
from datamodules.audio_visual.augment import (
    augment_frames,
    centre_frames,
    hsv_to_rgb,
    jitter,
    luminance,
    rgb_to_hsv,
    spec_augment,
)
from datamodules.audio_visual.clips import ClipStore, Windows
from datamodules.audio_visual.digits import DigitPairs, Weakening, keep_components
from datamodules.audio_visual.layouts import Clip, read_layout
from datamodules.audio_visual.log_mel import LogMel, mel_filters
from datamodules.audio_visual.media import MediaError, read_audio, read_video
from zoo.hub import weights as hub


def test_t_seconds_are_100_t_frames_of_128_bands() -> None:
    assert LogMel()(torch.randn(2, 8 * 16000)).shape == (2, 800, 128)
    assert digits.FRONT_END(torch.randn(digits.SAMPLES)).shape == (64, 32)


def test_a_long_sound_is_taken_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = torch.randn(2, 4 * 16000 + 77)
    whole = LogMel()(wave)
    monkeypatch.setattr("datamodules.audio_visual.log_mel._PIECE", 70)
    assert torch.allclose(LogMel()(wave), whole, atol=1e-5)


def test_log_mel_is_the_log_of_mel_power() -> None:
    """Against a direct transform of one frame."""
    front = LogMel()
    wave = torch.randn(16000, dtype=torch.float64)
    found = front(wave)
    frame = 40
    centre = frame * 160
    window = np.zeros(512)
    window[56:456] = torch.hamming_window(400).numpy()
    power = np.abs(np.fft.rfft(wave.numpy()[centre - 256 : centre + 256] * window)) ** 2
    expected = np.log(power @ mel_filters(128, 512, 16000).numpy() + 1e-6)
    assert np.abs(found[frame].numpy() - expected).max() < 2e-3


def test_triangles_are_equally_wide_in_htk_mels() -> None:
    filters = mel_filters(32, 4096, 16000)
    hz = np.linspace(0, 8000, 2049)
    peaks = 2595 * np.log10(1 + hz[filters.argmax(dim=0).numpy()] / 700)
    assert np.abs(np.diff(peaks) - 2595 * np.log10(1 + 8000 / 700) / 33).max() < 12  # one frequency's width
    assert float(filters.max()) <= 1
    assert float(filters[400:1600].sum(dim=1).sub(1).abs().max()) < 1e-5  # neighbours add up to 1


def test_a_tone_lies_in_its_band() -> None:
    t = torch.arange(16000) / 16000
    bands = [int(LogMel()(torch.sin(2 * torch.pi * f * t))[50].argmax()) for f in (500, 2000, 6000)]
    top = 2595 * np.log10(1 + 8000 / 700)
    expected = [2595 * np.log10(1 + f / 700) / top * 129 - 1 for f in (500, 2000, 6000)]
    assert np.abs(np.array(bands) - expected).max() < 1.5


def test_an_mp4_is_written_and_read_back(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 1.0, 1000.0)
    frames = list(read_video(path, 25, 40))
    assert (len(frames), frames[0].shape) == (25, (40, 48, 3))
    walk = [int(f[:, :, 1].mean(axis=0).argmax()) for f in frames]
    assert walk[0] < 6
    assert walk[-1] > 34
    assert np.all(np.diff(walk) >= -2)
    sound = read_audio(path, 16000)
    assert len(sound) == pytest.approx(16000, abs=1100)  # aac comes in packets
    spectrum = np.abs(np.fft.rfft(sound[2000:10000]))
    assert spectrum.argmax() * 16000 / 8000 == pytest.approx(1000, abs=5)


def test_frames_are_taken_at_other_rates_and_in_an_interval(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 3.0, None)
    assert len(list(read_video(path, 5, 40))) == 15
    half = list(read_video(path, 25, 20, 1.0, 2.0))
    assert (len(half), half[0].shape) == (25, (20, 24, 3))
    whole = list(read_video(path, 25, 20))
    assert int(half[0][:, :, 1].mean(axis=0).argmax()) == pytest.approx(
        int(whole[25][:, :, 1].mean(axis=0).argmax()), abs=1
    )
    late = list(read_video(path, 25, 20, 2.0))
    assert len(late) == 25
    assert int(late[0][:, :, 1].mean(axis=0).argmax()) == pytest.approx(
        int(whole[50][:, :, 1].mean(axis=0).argmax()), abs=1
    )


def test_wav_is_read_without_extras_and_resampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", 1.0, 440.0, rate=44100)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    sound = read_audio(path, 16000)
    assert len(sound) == 16000
    t = np.arange(16000) / 16000
    assert np.abs(sound.numpy() - 0.3 * np.sin(2 * np.pi * 440 * t))[200:-200].max() < 2e-3
    assert len(read_audio(path, 16000, 0.25, 0.75)) == 8000
    with pytest.raises(MediaError, match=r"install the extra: pip install 'lightning-zoo\[media\]'"):
        next(read_video(write_wav(tmp_path / "a.mp4"), 25, 40))


def test_flac_and_float_wav_are_read(tmp_path: Path) -> None:
    import soundfile

    t = np.arange(16000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    for name, options in (("a.flac", {}), ("a.wav", {"subtype": "FLOAT"}), ("b.wav", {"subtype": "PCM_24"})):
        soundfile.write(tmp_path / name, tone, 16000, **options)
        assert np.abs(read_audio(tmp_path / name, 16000).numpy() - tone).max() < 1e-4, name


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda p: p.write_bytes(b"not a video"), "cannot be decoded"),
        (lambda p: write_wav(p.with_suffix(".wav"), 0.0), "holds no sound between 0 s and its end"),
        (lambda p: p.with_suffix(".wav").write_bytes(b"RIFF"), "no readable wav file"),
        (lambda p: p.with_suffix(".flac").write_bytes(b"x"), "no readable sound file"),
        (lambda p: write_mp4(p, 0.5, None), "has no audio stream"),
    ],
)
def test_bad_sound_is_one_line(write: Any, text: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    path = next(tmp_path.iterdir())
    with pytest.raises(MediaError, match=text) as caught:
        read_audio(path, 16000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vggsound_is_read_as_released(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="1 of 5 train clips have no file and are skipped, for example gone_00_000030"
    ):
        train = read_layout("vggsound", fake_vggsound(tmp_path), "train")
    assert train.class_names == ["dog barking", "playing flute, solo"]
    assert [c.label for c in train.clips] == [(0,), (1,), (0,), (1,)]
    assert (train.clips[0].name, len(read_layout("vggsound", tmp_path, "test").clips)) == ("id-_00_000000", 4)


def test_audioset_has_several_labels_and_comment_lines(tmp_path: Path) -> None:
    found = read_layout("audioset", FAKES["audioset"](tmp_path), "train")
    assert (found.task, found.class_names) == ("multi_label", ["Speech", "Music", "Animal"])
    assert [c.label for c in found.clips] == [(1, 2), (0, 1), (0, 2), (1, 2)]
    with pytest.raises(FileNotFoundError, match="none of the 4 train clips"):
        read_layout("audioset", tmp_path, "train", train_set="unbalanced")


def test_epic_has_verbs_nouns_and_numbered_frames(tmp_path: Path) -> None:
    found = read_layout("epic", FAKES["epic"](tmp_path), "test")
    assert (found.task, found.groups, len(found.class_names)) == ("verb_noun", (97, 300), 397)
    clip = found.clips[0]
    assert (clip.label, clip.frames, clip.start, clip.stop) == ((4, 4), (21, 61), 1.5, 2.2)


@pytest.mark.parametrize(
    ("fps", "steps", "count"),
    [(25.0, [0, 2, 4, 7, 9, 12], 51), (60.0, [0, 1, 2, 3, 4, 5], 121), (120.0, [0, 0, 1, 1, 2, 2], 241)],
)
def test_numbered_frames_are_taken_at_the_asked_rate(
    fps: float, steps: list[int], count: int, tmp_path: Path
) -> None:
    """120 frames in 2 s are 60 a second: at 25 every 2.4th."""
    for i in range(100, 221):
        (tmp_path / f"frame_{i:010d}.jpg").touch()
    clip = Clip("a", (0, 0), tmp_path, None, 1.0, 3.0, (100, 220))
    paths = ClipStore(LogMel(), fps, 16, None, False, True).decode(clip).frames
    numbers = [int(p.stem.removeprefix("frame_")) - 100 for p in paths]
    assert (numbers[:6], numbers[-1], len(numbers)) == (steps, 120, count)


@pytest.mark.parametrize("layout", ["kinetics", "moments"])
def test_lists_with_headers_and_categories(layout: str, tmp_path: Path) -> None:
    FAKES[layout](tmp_path)
    for split in ("train", "val", "test"):
        found = read_layout(layout, tmp_path, split)  # type: ignore[arg-type]
        assert [c.label for c in found.clips] == [(0,), (1,), (0,), (1,)]


def test_a_csv_may_lack_a_modality(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v" / "a.mp4")
    write_wav(tmp_path / "b.wav")
    lines = [
        "video,audio,label,split", "v/a.mp4,,x;y,train", ",b.wav,y,train", "v/c.mp4,c.wav,x,test", "broken",
    ]  # fmt: skip
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="1 lines could not be parsed, the first is broken"):
        found = read_layout("csv", tmp_path, "train", multi_label=True)
    assert [(c.label, c.video is None, c.audio is None) for c in found.clips] == [
        ((0, 1), False, True),
        ((1,), True, False),
    ]


def test_a_csv_keeps_validation_and_test_apart(tmp_path: Path) -> None:
    words = {"a": "Train", "b": "training", "c": "val", "d": "valid", "e": "test"}
    for name in words:
        write_wav(tmp_path / f"{name}.wav", 0.01)

    def names(split: str, **other: str) -> list[str]:
        rows = [f"{name}.wav,x,{word}" for name, word in (words | other).items()]
        (tmp_path / "clips.csv").write_text("\n".join(["audio,label,split", *rows]))
        found = read_layout("csv", tmp_path, split)  # type: ignore[arg-type]
        return [c.name[-5] for c in found.clips]

    assert [names(split) for split in ("train", "val", "test")] == [["a", "b"], ["c", "d"], ["e"]]
    assert names("val", c="test", d="test") == names("test", c="test", d="test") == ["c", "d", "e"]
    assert names("test", e="validation") == ["c", "d", "e"]
    names("train")
    data = opened(tmp_path, "csv", modalities=["spectrogram"], batch_size=2, seconds=0.02)
    data.setup("test")
    assert (len(data.val_set), len(data.test_set)) == (2, 1)
    bad_words = {"banana": "the split of b.wav is 'banana'; it must be", "": "b.wav is missing, while"}
    for bad, line in bad_words.items():
        with pytest.raises(ValueError, match=rf"clips\.csv: .*{line}"):
            names("train", b=bad)
    (tmp_path / "clips.csv").write_text("audio,label,split\na.wav,x,train\na.wav,x,test\n")
    with pytest.raises(ValueError, match=r"clips\.csv: a\.wav is in train and in test"):
        read_layout("csv", tmp_path, "train")


def test_a_folder_per_class_with_and_without_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write_wav(tmp_path / "a" / split / name / "x.wav")
    found = read_layout("folder", tmp_path / "a", "val")
    assert (found.class_names, len(found.clips)) == (["cat", "dog"], 2)
    for i in range(40):
        write_wav(tmp_path / "b" / "cat" / f"{i}.wav", 0.01)
    counts = {s: len(read_layout("folder", tmp_path / "b", s).clips) for s in ("train", "test")}  # type: ignore[arg-type]
    assert sum(counts.values()) == 40
    assert 1 <= counts["test"] <= 9


@pytest.mark.parametrize(
    ("layout", "file", "text"),
    [
        ("vggsound", None, "no list .*vggsound.csv: expected vggsound.csv and video/"),
        ("vggsound", "vggsound.csv", "none of 1 lines could be parsed, the first is what is this"),
        ("epic", "EPIC_100_train.csv", "has no column narration_id"),
        ("csv", "clips.csv", "needs columns label and video or audio"),
    ],
)
def test_lists_that_are_not_there_or_not_it(layout: str, file: str | None, text: str, tmp_path: Path) -> None:
    if file:
        (tmp_path / file).write_text("what is this\n")
    with pytest.raises((FileNotFoundError, ValueError), match=text):
        read_layout(layout, tmp_path, "train")


def test_lists_without_ends_of_lines_and_impossible_intervals_are_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("x" * (2 << 20))
    with pytest.raises(ValueError, match=r"clips.csv has a line of more than 1,048,576 characters"):
        read_layout("csv", tmp_path, "train")
    list_ = FAKES["epic"](tmp_path) / "EPIC_100_train.csv"
    lines = list_.read_text().splitlines()
    cells = [line.split(",") for line in lines[1:4]]
    cells[0][4], cells[1][7], cells[2][4] = "00:00:nan", "999999999999", "00:09:00.0"  # the last begins late
    list_.write_text("\n".join([lines[0], *map(",".join, cells), lines[4]]) + "\n")
    with pytest.warns(UserWarning, match="3 lines could not be parsed"):
        assert len(read_layout("epic", tmp_path, "train").clips) == 1


def test_frames_are_spread_over_the_window_or_strided() -> None:
    assert Windows(8, 8, 0, 25).frame_numbers(0, 250) == [0, 25, 50, 75, 100, 125, 150, 175]
    assert Windows(8, 8, 0, 25).frame_numbers(1, 250) == [50, 75, 100, 125, 150, 175, 200, 225]
    assert Windows(8, 32, 1, 25).frame_numbers(0.5, 132)[:3] == [50, 51, 52]
    assert Windows(8, 8, 0, 25).frame_numbers(0.5, 60)[-4:] == [59, 59, 59, 59]  # a short clip's last frame
    assert [Windows().sound_start(p, 1000, 800) for p in (0, 0.5, 1)] == [0, 100, 200]


def test_windows_of_one_length_start_at_one_time_others_at_one_place() -> None:
    """A place is a share of what each window can move: 2.56 s of frames go further than 8 s of sound."""

    def starts(windows: Windows, place: float) -> tuple[float, float]:
        """Seconds of frames and sound in a clip of 10 s."""
        return windows.frame_numbers(place, 250)[0] / 25, windows.sound_start(place, 1000, 800) / 100

    for place in (0.0, 0.3, 0.5, 1.0):
        frames, sound = starts(Windows(8, 8, 0, 25), place)
        assert abs(frames - sound) < 1 / 25
    assert [starts(Windows(8, 32, 2, 25), p) for p in (0.0, 0.5, 1.0)] == [(0, 0), (3.72, 1), (7.44, 2)]


def test_masks_have_uniform_widths_and_hold_the_mean() -> None:
    rng = np.random.default_rng(0)
    x = torch.ones(100, 40)
    widths = []
    for _ in range(3000):
        masked = spec_augment(x, rng, 1, 20, 0, 0)
        zeros = (masked == 0).all(dim=1)
        widths.append(int(zeros.sum()))
        assert int(zeros.int().diff().abs().sum()) <= 2  # one piece
    assert (set(widths), np.mean(widths)) == (set(range(21)), pytest.approx(10, abs=0.5))
    both = spec_augment(x, rng, 0, 0, 2, 10)
    assert ((both == 0).all(dim=0) | (both == 1).all(dim=0)).all()
    assert spec_augment(x[:5], rng, 1, 192, 1, 48).shape == (5, 40)  # masks as long as the clip


def test_hsv_and_back() -> None:
    import colorsys

    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 5)
    h, s, v = rgb_to_hsv(x)
    assert torch.allclose(hsv_to_rgb(h, s, v), x, atol=1e-5)
    expected = colorsys.rgb_to_hsv(*x[1, :, 2, 3].tolist())
    assert (float(h[1, 2, 3]), float(s[1, 2, 3]), float(v[1, 2, 3])) == pytest.approx(expected, abs=1e-5)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert jitter(red, 0, 1, 1 / 3, 1).flatten().tolist() == pytest.approx([0, 1, 0], abs=1e-5)
    assert jitter(x, 0, 1, 0, 1).sub(x).abs().max() < 1e-5
    assert float(luminance(red)) == pytest.approx(0.2989)


def test_all_frames_of_a_clip_share_one_draw() -> None:
    frame = torch.randint(256, (1, 60, 80, 3), dtype=torch.uint8)
    clip = frame.expand(4, -1, -1, -1)
    out = augment_frames(clip, np.random.default_rng(3), 32)
    assert out.shape == (3, 4, 32, 32)
    assert torch.equal(out[:, 0], out[:, 3])
    assert -1 <= float(out.min()) <= float(out.max()) <= 1
    again = augment_frames(clip, np.random.default_rng(3), 32)
    assert torch.equal(out, again)
    assert not torch.equal(out, augment_frames(clip, np.random.default_rng(4), 32))


class Scripted:
    """A generator that records the bounds it is asked for: shares are ``share``, integers the largest."""

    def __init__(self, share: float) -> None:
        self.share, self.bounds = share, []  # type: ignore[var-annotated]

    def random(self, *_: int) -> float:
        return self.share

    def uniform(self, low: float, high: float) -> float:
        self.bounds.append((low, high))
        return low + 0.75 * (high - low)

    def integers(self, high: int) -> int:
        return high - 1


def test_augmentation_draws_within_the_papers_bounds() -> None:
    frame = torch.randint(256, (1, 64, 64, 3), dtype=torch.uint8)
    scale, jitters = (0.9, 1.33), [(-32 / 255, 32 / 255), (0.6, 1.4), (-0.2, 0.2), (0.6, 1.4)]
    for share, bounds in ((0.79, [scale, *jitters]), (0.81, [scale])):  # colour jitter with probability 0.8
        rng: Any = Scripted(share)
        augment_frames(frame, rng, 32)
        assert rng.bounds == bounds
    for share, equal in ((0.09, True), (0.11, False)):  # grey with probability 0.1
        grey: Any = Scripted(share)
        x = augment_frames(frame, grey, 32)
        assert torch.equal(x[0], x[1]) is equal
    for share, flipped in ((0.49, True), (0.51, False)):
        rngs: list[Any] = [Scripted(share), Scripted(share)]
        a, b = (
            augment_frames(frame, r, 32, flip=f, colour=False)
            for r, f in zip(rngs, (True, False), strict=True)
        )
        assert torch.equal(a, b.flip(3) if flipped else b)


def test_the_scale_of_frames_is_isotropic() -> None:
    """A square of 32 pixels, enlarged by 37 / 64 with 0.9 + 0.75 * 0.43: as high as wide."""
    frame = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
    frame[:, 16:48, 32:64] = 255
    rng: Any = Scripted(0.5)
    x = augment_frames(frame, rng, 32, flip=False, colour=False)[0, 0]
    sides = [int((x[16] > 0).sum()), int((x[:, 16] > 0).sum())]
    assert sides == pytest.approx([32 * 45 / 64] * 2, abs=0.6)


def test_black_is_minus_one_and_masked_sound_is_the_mean(tmp_path: Path) -> None:
    black = torch.zeros(2, 40, 48, 3, dtype=torch.uint8)
    rng: Any = Scripted(0.6)
    for frames in (centre_frames(black, 32), augment_frames(black, rng, 32, colour=False)):
        assert frames.unique().tolist() == [-1.0]
    data = opened(fake_vggsound(tmp_path), "vggsound", spectrogram_mean=5.0, spectrogram_std=2.0).train_set
    log_mel = torch.randn(50, 128)
    plain, masked = (data._sound(log_mel, 0.0, rng, training) for training in (False, True))
    assert torch.allclose(plain[0], (log_mel - 5) / 2)
    assert not masked.any()  # one mask over all 50 frames, after the normalisation


def test_evaluation_crops_the_centre_and_scales_to_one() -> None:
    frame = torch.full((1, 64, 96, 3), 255, dtype=torch.uint8)
    frame[:, :, :20] = 0  # outside a central crop
    out = centre_frames(frame, 32)
    assert out.shape == (3, 1, 32, 32)
    assert float(out.min()) > 0.99


def opened(root: Path, layout: str, stage: str = "fit", **options: Any) -> AudioVisual:
    data = AudioVisual(layout, str(root), **{"seconds": 0.5, "image_size": 16, "batch_size": 2, **options})  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.prepare_data()
        data.setup(stage)
    return data


def test_a_batch_keeps_the_contract(tmp_path: Path) -> None:
    data = opened(fake_vggsound(tmp_path), "vggsound")
    batch = next(iter(data.train_dataloader()))
    assert {k: tuple(v.shape) for k, v in batch.items()} == {
        "rgb": (2, 3, 8, 16, 16), "spectrogram": (2, 1, 50, 128), "label": (2,), "index": (2,),
    }  # fmt: skip
    assert (data.num_classes, data.task, data.shapes["spectrogram"]) == (2, "single_label", (1, 50, 128))
    held = torch.cat([b["spectrogram"].flatten() for b in data.val_dataloader()])
    assert abs(float(held.mean())) < 0.3  # normalised by the training clips
    assert float(held.std()) == pytest.approx(1, abs=0.3)


def test_the_cache_changes_nothing_but_jpeg_noise_and_is_built_once(tmp_path: Path) -> None:
    root = fake_vggsound(tmp_path / "data")
    numbers = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "augment": False}
    plain = opened(root, "vggsound", cache=False, **numbers)
    cached = opened(root, "vggsound", cache_dir=str(tmp_path / "cache"), **numbers)
    a, b = plain.train_set[(0, 1)], cached.train_set[(0, 1)]
    assert torch.equal(a["spectrogram"], b["spectrogram"])
    assert float((a["rgb"] - b["rgb"]).abs().mean()) < 0.05
    assert not (root / "zoo_cache").exists()
    files = sorted((tmp_path / "cache").rglob("*.npz"))
    assert len(files) == 8
    times = [f.stat().st_mtime_ns for f in files]
    opened(root, "vggsound", cache_dir=str(tmp_path / "cache"), **numbers)
    assert [f.stat().st_mtime_ns for f in files] == times


def test_augmentation_is_a_function_of_epoch_and_index(tmp_path: Path) -> None:
    data = opened(fake_vggsound(tmp_path), "vggsound").train_set
    a, b, c = data[(0, 1)], data[(0, 1)], data[(1, 1)]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["rgb"], c["rgb"])
    assert not torch.equal(a["spectrogram"], c["spectrogram"])


def test_windows_start_together_or_apart(tmp_path: Path) -> None:
    """A rising tone and a walking bar tell where a window starts."""
    numbers: dict[str, Any] = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "augment": True}
    root = fake_vggsound(tmp_path, seconds=2.0)
    for apart in (False, True):
        data = opened(root, "vggsound", async_sampling=apart, **numbers)
        places: list[list[float]] = []
        windows = data.train_set.windows
        windows.frame_numbers = lambda p, n, out=places: out.append([p]) or [0] * 8  # type: ignore[method-assign]
        windows.sound_start = lambda p, n, w, out=places: out[-1].append(p) or 0  # type: ignore[method-assign]
        for epoch in range(5):
            data.train_set[(epoch, 0)]
        same = [a == b for a, b in places]
        assert same == [not apart] * 5


def test_test_crops_are_spread_over_the_clip(tmp_path: Path) -> None:
    data = opened(fake_vggsound(tmp_path), "vggsound", "test", test_crops=3)
    item = data.test_set[0]
    assert (item["rgb"].shape, item["spectrogram"].shape) == ((3, 3, 8, 16, 16), (3, 1, 50, 128))
    whole = data.test_set.store.load(data.test_set.clips[0]).log_mel
    assert whole is not None
    mean, std = data.normalisation  # type: ignore[misc]
    ends = [(whole[:50] - mean) / std, (whole[-50:] - mean) / std]
    assert torch.allclose(item["spectrogram"][0, 0], ends[0])
    assert torch.allclose(item["spectrogram"][2, 0], ends[1])


def test_bad_media_are_skipped_with_a_count(tmp_path: Path) -> None:
    root = fake_vggsound(tmp_path)
    (root / "video" / "id-_01_000001.mp4").write_bytes(b"broken")
    write_wav(root / "audio" / "id-_02_000002.wav", 0.0)  # an empty audio file
    data = AudioVisual("vggsound", str(root), seconds=0.5, image_size=16, batch_size=2)
    data.prepare_data()
    with pytest.warns(UserWarning, match="skipped") as caught:
        data.setup("fit")
    texts = [str(w.message) for w in caught]
    (text,) = {t for t in texts if "decoded" in t}
    assert text.startswith("2 of 4 train clips cannot be decoded and are skipped: ")
    assert len(data.train_set) == 2


def test_nothing_that_can_be_decoded_is_an_error(tmp_path: Path) -> None:
    root = fake_vggsound(tmp_path)
    for path in (root / "video").iterdir():
        path.write_bytes(b"broken")
    data = AudioVisual(
        "vggsound", str(root), seconds=0.5, image_size=16, spectrogram_mean=0, spectrogram_std=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.prepare_data()
        with pytest.raises(
            MediaError, match=r"none of the 4 train clips can be decoded: .*cannot be decoded"
        ):
            data.setup("fit")


def test_a_clip_without_sound_is_marked(tmp_path: Path) -> None:
    rows = ["video,audio,label,split"]
    for split in ("train", "test"):
        write_mp4(tmp_path / split / "a.mp4")
        write_mp4(tmp_path / split / "b.mp4", frequency=None)
        write_wav(tmp_path / split / "c.wav")
        clips = ("{0}/a.mp4,{0}/a.mp4,x", "{0}/b.mp4,,y", ",{0}/c.wav,x")
        rows += [f"{clip.format(split)},{split}" for clip in clips]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    data = opened(tmp_path, "csv", batch_size=3)
    batch = data.train_set.__getitems__([(0, 0), (0, 1), (0, 2)])
    assert batch["present"].tolist() == [[True, True], [True, False], [False, True]]
    assert not batch["spectrogram"][1].any()
    assert not batch["rgb"][2].any()
    assert "present" not in data.train_set.__getitems__([(0, 0)])


def test_epic_and_audioset_labels(tmp_path: Path) -> None:
    epic = opened(FAKES["epic"](tmp_path / "e"), "epic", frames=4, frame_stride=1)
    batch = next(iter(epic.val_dataloader()))
    assert (batch["label"].tolist()[0], batch["rgb"].shape) == ([4, 4], (4, 3, 4, 16, 16))
    audioset = opened(FAKES["audioset"](tmp_path / "a"), "audioset")
    assert next(iter(audioset.val_dataloader()))["label"][0].tolist() == [1.0, 0.0, 1.0]


def test_measuring_needs_the_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set data.init_args.cache: true, or give both"):
        opened(fake_vggsound(tmp_path), "vggsound", cache=False)


def test_digits_without_the_recordings_are_procedural(tmp_path: Path) -> None:
    made = digits.load(tmp_path)
    assert (made.name, made.sounds.shape[1]) == ("procedural tones and seven-segment glyphs", 5120)
    assert made.pictures.shape[1:] == (28, 28)
    assert len(set(made.pictures[::300].flatten(1).round().long().sum(dim=1).tolist())) > 5
    with pytest.raises(FileNotFoundError, match=r"fsdd_1500.npz: the Free Spoken Digit Dataset"):
        digits.load(tmp_path, "real")


def test_sum_pairs_are_independent_and_labelled_by_the_sum() -> None:
    data = DigitPairs(digits.procedural(10, 10), True, 3000, "sum", Weakening())
    v, a = data.digits.T
    assert torch.equal(data.labels, (v + a) % 3)
    counts = torch.bincount(v * 3 + a, minlength=9)
    assert counts.min() > 250
    for digit in range(3):  # neither alone tells anything
        share = torch.bincount(data.labels[v == digit], minlength=3) / (v == digit).sum()
        assert float((share - 1 / 3).abs().max()) < 0.05


def test_same_pairs_agree_and_sources_are_held_out() -> None:
    made = digits.procedural(10, 10)
    train, test = (DigitPairs(made, t, 500, "same", Weakening()) for t in (True, False))
    for data in (train, test):
        assert torch.equal(made.picture_digits[data.rows[0]], data.labels)
        assert torch.equal(made.sound_digits[data.rows[1]], data.labels)
    for side in (0, 1):
        assert not set(train.rows[side].tolist()) & set(test.rows[side].tolist())


def test_weakening_has_the_stated_strength() -> None:
    made = digits.procedural(10, 30)
    clean = made.pictures.clone()
    weak = keep_components(clean, made.picture_train, 0.25)
    train = made.picture_train
    kept = float(weak[train].flatten(1).var(dim=0).sum() / clean[train].flatten(1).var(dim=0).sum())
    assert 0.25 <= kept < 0.4  # the fewest components that reach a quarter
    noisy = DigitPairs(made, False, 400, "same", Weakening(audio_snr_db=-5.0))
    plain = DigitPairs(made, False, 400, "same", Weakening())
    items = [d.__getitems__(list(range(400)))["spectrogram"].exp().mean() for d in (noisy, plain)]
    assert float(items[0] / items[1]) == pytest.approx(1 + 10**0.5, rel=0.15)


def test_noise_is_a_function_of_epoch_and_index() -> None:
    data = DigitPairs(digits.procedural(10, 10), True, 50, "same", Weakening(0.3, 1.0, -5.0), frames=3)
    a, b, c = data[(0, 7)], data[(0, 7)], data[(1, 7)]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["rgb"], c["rgb"])
    assert not torch.equal(a["spectrogram"], c["spectrogram"])
    assert torch.equal(data[7]["rgb"], data[7]["rgb"])
    assert a["rgb"].shape == (3, 3, 28, 28)
    assert float(a["rgb"].abs().max()) <= 1


@pytest.mark.skipif(
    not Path(__import__("os").environ.get("ZOO_DATA", "x"), "fsdd").is_dir(), reason="no fsdd"
)
def test_real_recordings_have_the_official_split() -> None:
    made = digits.load(Path(__import__("os").environ["ZOO_DATA"]), "real")
    assert (made.sounds.shape, int(made.sound_train.sum())) == ((1500, 5120), 1200)
    assert made.pictures.shape == (5000, 28, 28)
    assert torch.bincount(made.picture_digits[~made.picture_train]).tolist() == [100] * 10
    assert 0.01 < float(made.sounds.abs().max(dim=1).values.mean()) < 1


def test_predict_on_files_gives_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fake_vggsound(tmp_path / "data")
    (tmp_path / "clips").mkdir()
    write_mp4(tmp_path / "clips" / "new.mp4")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"x")
    odd = write_wav(tmp_path / "clips" / "odd.wav")
    odd.write_bytes(
        odd.read_bytes()[:24] + bytes(4) + odd.read_bytes()[28:]
    )  # its rate is 0: found when read
    sizes = {"width": 16, "depth": 2, "heads": 2, "mlp": 16, "num_classes": 2, "task": "single_label",
             "image_size": 16, "patch_size": 8, "spectrogram_frames": 48, "fusion_layer": 0}  # fmt: skip
    options = {
        "layout": "vggsound",
        "root": root,
        "seconds": 0.48,
        "image_size": 16,
        "predict_files": tmp_path / "clips",
    }
    flags = ["--model=zoo.MBT", "--data=datamodules.AudioVisual", "--trainer.accelerator=cpu"]
    flags += [f"--trainer.default_root_dir={tmp_path}"]
    flags += [f"--model.init_args.{k}={v}" for k, v in sizes.items()]
    flags += [f"--data.init_args.{k}={v}" for k, v in options.items()]
    flags += ["--data.init_args.eval_batch_size=1", "--weights=none"]
    with pytest.warns(UserWarning, match="cannot be") as told:
        assert cli.main(["predict", *flags]) == 0
    texts = "\n".join(str(w.message) for w in told)
    assert "1 of 3 prediction clips cannot be decoded and are skipped" in texts
    assert "1 of 2 items cannot be read and are skipped" in texts
    assert "odd.wav has 0 samples a second" in texts
    table = next(tmp_path.rglob("scores.csv")).read_text().splitlines()
    assert table[0] == 'name,split,label,prediction,score,dog barking,"playing flute, solo"'
    assert table[1].startswith("new.mp4,,,")
    assert next(tmp_path.rglob("attention.png")).stat().st_size > 5000


@pytest.mark.filterwarnings("ignore:.*have no file and are skipped")
def test_a_trained_model_predicts_a_file_without_its_data(tmp_path: Path) -> None:
    """Mean, deviation and class names travel with the weights; the folder of the data is not there."""
    sizes = {"width": 16, "depth": 2, "heads": 2, "mlp": 16, "num_classes": 2, "task": "single_label",
             "image_size": 16, "patch_size": 8, "spectrogram_frames": 48, "fusion_layer": 0,
             "mixup_groups": 1}  # fmt: skip
    options = {"layout": "vggsound", "seconds": 0.48, "image_size": 16, "batch_size": 2}
    flags = ["--model=zoo.MBT", "--data=datamodules.AudioVisual", "--trainer.accelerator=cpu"]
    flags += [f"--model.init_args.{k}={v}" for k, v in sizes.items()]
    flags += [f"--data.init_args.{k}={v}" for k, v in options.items()]
    root = fake_vggsound(tmp_path / "data")
    steps = ["--trainer.max_steps=2", "--checkpoint.every_n_train_steps=2", f"--data.init_args.root={root}"]
    assert cli.main(["fit", *flags, *steps, f"--trainer.default_root_dir={tmp_path / 'fit'}"]) == 0
    checkpoint = next((tmp_path / "fit").rglob("step=*.ckpt"))
    weights = hub.save(zoo.load(checkpoint), tmp_path / "own.safetensors")
    clip = f"--data.init_args.predict_files={write_mp4(tmp_path / 'new.mp4', frequency=700.0)}"
    measured = opened(root, "vggsound").normalisation
    tables = []
    for name, place, source in (
        ("a", root, f"--ckpt_path={checkpoint}"),
        ("b", tmp_path / "gone", f"--weights={weights}"),
    ):
        out = tmp_path / name
        given = [clip, source, f"--data.init_args.root={place}", f"--trainer.default_root_dir={out}"]
        assert cli.main(["predict", *flags, *given]) == 0
        tables.append(next(out.rglob("scores.csv")).read_text())
    assert tables[0] == tables[1]
    assert tables[1].startswith('name,split,label,prediction,score,dog barking,"playing flute, solo"')
    stored = zoo.load(weights).hparams
    assert (stored["spectrogram_mean"], stored["spectrogram_std"]) == measured
    assert not (tmp_path / "gone").exists()
