"""What a media file says about how it is to be shown, and the bounds within which it is read."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.clips import write_mp4, write_wav
from PIL import Image

from datamodules.audio_visual import media
from datamodules.audio_visual.clips import ClipStore, PictureFiles
from datamodules.audio_visual.layouts import Clip
from datamodules.audio_visual.log_mel import LogMel
from datamodules.audio_visual.media import MediaError, Video, _open, has_stream, read_audio, read_video

RATE = 16000


def write_clip(
    path: Path,
    frames: list[tuple[float, int]],
    sound: np.ndarray[Any, Any] | None = None,
    sound_at: float = 0.0,
    shift: float = 0.0,
    layout: str = "mono",
    gap: tuple[float, float] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Frames (seconds, grey) and sound (channels, samples), both ``shift`` later on the container's clock;
    packets of sound that begin within ``gap`` are left out."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, 25)
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        heard = None if sound is None else container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        for seconds, grey in frames:
            picture = av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")
            picture.pts, picture.time_base = round((seconds + shift) * 25), Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        for start in range(0, 0 if sound is None else sound.shape[1], 800):
            if heard is None or (gap and gap[0] <= start / RATE < gap[1]):
                continue
            piece = np.ascontiguousarray((sound[:, start : start + 800].T * 2**15).astype("<i2")).reshape(
                1, -1
            )
            block = av.AudioFrame.from_ndarray(piece, format="s16", layout=layout)
            block.sample_rate, block.time_base = RATE, Fraction(1, RATE)
            block.pts = start + round((sound_at + shift) * RATE)
            container.mux(heard.encode(block))
    return path


def bang(seconds: float, at: float) -> np.ndarray[Any, Any]:
    """Half a second of noise in silence, (1, samples)."""
    samples = np.zeros((1, round(seconds * RATE)))
    start = round(at * RATE)
    samples[:, start : start + RATE // 2] = np.random.default_rng(0).uniform(-0.9, 0.9, RATE // 2)
    return samples


def flash(first: float, last: float, at: float) -> list[tuple[float, int]]:
    """Black frames, and white ones from ``at`` on."""
    return [(k / 25, 255 if k / 25 >= at else 0) for k in range(round(first * 25), round(last * 25))]


def seen(path: Path, **interval: float) -> float:
    """When the picture turns white."""
    frames = list(read_video(path, 25, 32, **interval))
    return next(k for k, frame in enumerate(frames) if frame.mean() > 128) / 25


def heard(path: Path, **interval: float) -> float:
    return float(np.flatnonzero(np.abs(read_audio(path, RATE, **interval).numpy()) > 0.1)[0]) / RATE


@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_sound_and_picture_keep_their_times(shift: float, tmp_path: Path) -> None:
    """Flash and bang at 3 s; pictures begin at 1.52 s, or the sound does; the clock may begin at 10 s."""
    late_picture = write_clip(tmp_path / "a.mkv", flash(1.52, 4, 3), bang(4, 3), shift=shift)
    assert seen(late_picture) == pytest.approx(3, abs=0.041)
    assert heard(late_picture) == pytest.approx(3, abs=0.01)
    assert len(list(read_video(late_picture, 25, 32))) == 100
    late_sound = write_clip(tmp_path / "b.mkv", flash(0, 4, 3), bang(2.48, 1.48), 1.52, shift)
    assert seen(late_sound) == pytest.approx(3, abs=0.041)
    assert heard(late_sound) == pytest.approx(3, abs=0.01)
    for path in (late_picture, late_sound):  # after a seek too
        assert seen(path, start=2.0, stop=4.0) == pytest.approx(1, abs=0.041)
        assert heard(path, start=2.0, stop=4.0) == pytest.approx(1, abs=0.01)


def test_a_gap_in_the_sound_is_silence(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", flash(0, 4, 3), bang(4, 3), gap=(1.0, 2.0))
    assert heard(path) == pytest.approx(3, abs=0.01)


def test_stereo_is_the_mean_of_its_channels_in_every_container(tmp_path: Path) -> None:
    import soundfile

    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    both = np.stack([tone, tone])
    write_clip(tmp_path / "a.mkv", flash(0, 1, 0), both, layout="stereo")
    soundfile.write(tmp_path / "a.wav", both.T, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", both.T, RATE)
    for name in ("a.mkv", "a.wav", "a.flac"):
        assert np.abs(read_audio(tmp_path / name, RATE).numpy() - tone).max() < 1e-3, name


def test_a_video_is_turned_and_its_pixels_made_square(tmp_path: Path) -> None:
    """The display matrix of a telephone held upright, and pixels twice as wide as high."""
    path = write_mp4(tmp_path / "a.mp4", 0.2, None)
    stored = next(read_video(path, 25, 40))
    content = path.read_bytes()
    one = struct.pack(">i", 1 << 16)
    unturned = one + bytes(12) + one + bytes(12) + struct.pack(">i", 1 << 30)
    turned = (
        bytes(4) + one + bytes(4) + struct.pack(">i", -(1 << 16)) + bytes(16) + struct.pack(">i", 1 << 30)
    )
    track = content.index(unturned, content.index(b"tkhd"))
    path.write_bytes(content[:track] + turned + content[track + 36 :])
    shown = next(read_video(path, 25, 40))
    assert (stored.shape, shown.shape) == ((40, 48, 3), (48, 40, 3))
    assert np.array_equal(shown, np.rot90(stored, -1))  # to the right
    wide = write_clip(tmp_path / "b.mkv", flash(0, 0.2, 0), pixel_aspect=Fraction(2))
    assert next(read_video(wide, 25, 32)).shape == (32, 96, 3)


def test_a_video_is_counted_without_decoding_it(tmp_path: Path) -> None:
    for name, fps, start, stop in (("a", 25, 0, None), ("b", 7, 0.5, None), ("c", 30, 1.2, 2.5)):
        path = write_mp4(tmp_path / f"{name}.mp4", 3.0, None)
        video = Video(path, fps, 20, start, stop)
        frames = list(video.frames())
        assert video.count() == len(frames)
        found = video.pixels({0, 5, video.count() - 1})
        assert all(np.array_equal(found[n], frames[n]) for n in found)


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    assert has_stream(write_mp4(tmp_path / "a.mp4", 0.2), "video")
    with av.open(str(tmp_path / "a.mp4")) as container:
        cover = type("Stream", (), {"disposition": av.stream.Disposition.attached_pic})()
        from datamodules.audio_visual.media import _streams

        streams = type("Streams", (), {"video": [cover, container.streams.video[0]]})()
        assert _streams(av, type("C", (), {"streams": streams})(), "video") == [container.streams.video[0]]


def test_a_playlist_called_mp4_opens_no_other_file(tmp_path: Path) -> None:
    """``concat`` and playlists name files and addresses that ffmpeg would open."""
    pytest.importorskip("av", reason="PyAV is not installed")
    inside = write_mp4(tmp_path / "a.mp4", 0.2)
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile '{inside.name}'\n")
    with pytest.raises(MediaError, match=r"b\.mp4 cannot be decoded"):
        has_stream(tmp_path / "b.mp4", "video")


def odd_wav(path: Path, at: int, value: bytes) -> Path:
    """A wav file with other bytes at a place of its header: the rate at 24, the bits of a sample at 34."""
    content = bytearray(write_wav(path, 0.5).read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        (24, struct.pack("<I", 0), "has 0 samples a second; needed are 1,000 to 768,000"),
        (24, struct.pack("<I", 1), "has 1 samples a second"),
        (24, struct.pack("<I", 15_999_989), "has 15,999,989 samples a second"),
        (24, struct.pack("<I", 4_294_967_291), "has 4,294,967,291 samples a second"),
        (34, struct.pack("<H", 40), "has 40 bits a sample; needed are 8, 16, 24 or 32"),
    ],
)
def test_odd_rates_and_widths_are_refused(at: int, value: bytes, text: str, tmp_path: Path) -> None:
    path = odd_wav(tmp_path / "a.wav", at, value)
    with pytest.raises(MediaError, match=f"a.wav {text}"):
        read_audio(path, RATE)


def test_a_prime_rate_is_resampled_with_a_short_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is 20 times the larger term of the ratio."""
    import scipy.signal

    terms: list[int] = []
    resample = scipy.signal.resample_poly
    monkeypatch.setattr(
        scipy.signal, "resample_poly", lambda x, up, down: terms.extend((up, down)) or resample(x, up, down)
    )
    path = write_wav(tmp_path / "a.wav", 0.5, 440.0, rate=767_957)
    found = read_audio(path, RATE).numpy()
    assert max(terms) <= 100_000
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / RATE)
    assert len(found) == pytest.approx(8000, abs=1)
    assert np.abs(found - expected)[200:-200].max() < 5e-3


def test_a_picture_beyond_the_bounds_is_skipped_as_other_damage_is(tmp_path: Path) -> None:
    """What is no MediaError ends the run."""
    Image.new("L", (5, 501)).save(tmp_path / "frame.png")
    with pytest.raises(MediaError, match=r"frame\.png cannot be read as a picture \(it is 5 x 501, thinner"):
        PictureFiles([tmp_path / "frame.png"]).pixels({0})


@pytest.mark.parametrize("value", [np.nan, 1e38, np.inf])
def test_samples_that_are_no_sound_are_refused(value: float, tmp_path: Path) -> None:
    import soundfile

    samples = np.zeros(1000, np.float32)
    samples[500] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match="samples that are NaN, infinite or above 100 times full scale"):
        read_audio(tmp_path / "a.wav", RATE)


def test_seconds_and_pixels_are_bounded_and_the_bound_can_be_lifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mp4(tmp_path / "a.mp4", 3.0)
    monkeypatch.setattr(media, "MAX_SECONDS", 2)
    with pytest.raises(MediaError, match=r"more than 2 s of sound from 0 s on; cut it .*ZOO_LIMITS=off"):
        read_audio(path, RATE)
    with pytest.raises(MediaError, match=r"more than 2 s of video from 0 s on.*ZOO_LIMITS=off"):
        list(read_video(path, 25, 40))
    assert len(read_audio(path, RATE, 1.0, 2.5)) == 24000
    monkeypatch.setattr(media, "MAX_FRAME", 1000)
    with pytest.raises(MediaError, match="it is 48 x 40, more than 1,000 pixels; ZOO_LIMITS=off"):
        list(read_video(path, 25, 40, 0.0, 1.0))
    monkeypatch.setenv("ZOO_LIMITS", "off")
    assert len(read_audio(path, RATE)) > 2 * RATE
    assert len(list(read_video(path, 25, 40))) > 2 * 25


def test_a_long_video_is_decoded_once_and_no_frame_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 frames 5 are asked for: 5 are converted; the cache holds JPEGs that are read one by one."""
    path = write_mp4(tmp_path / "a.mp4", 4.0, None)
    converted: list[int] = []
    convert = Video._pixels
    monkeypatch.setattr(Video, "_pixels", lambda self, *f: converted.append(1) or convert(self, *f))
    clip = Clip("a", (0,), path, None)
    decoded = ClipStore(LogMel(), 25, 40, None, False, True).decode(clip)
    assert (len(decoded.frames), len(converted)) == (100, 0)
    wanted = {0, 25, 50, 75, 99}
    plain = decoded.frames.pixels(wanted)
    assert len(converted) == 5
    store = ClipStore(LogMel(), 25, 40, tmp_path / "cache", False, True)
    assert store.store(clip) is None
    cached = store.load(clip).frames
    assert len(cached) == 100
    again = cached.pixels(wanted)
    assert max(float(np.abs(again[n].astype(int) - plain[n]).mean()) for n in wanted) < 4
    file = store.path(clip)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(MediaError, match=r"no readable cache file .*; delete it and run again"):
        store.load(clip)


def test_a_closed_container_is_not_touched(tmp_path: Path) -> None:
    """PyAV's streams point into it: what is said after closing must not ask them."""
    opened = _open(write_mp4(tmp_path / "a.mp4", 0.2), "video")
    opened.bad_packets = 2
    with pytest.warns(UserWarning, match=r"a\.mp4: 2 packets of video cannot be decoded and are skipped"):
        opened.close()
    assert opened.stream is None
