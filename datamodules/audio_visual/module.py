"""The LightningDataModule of audio-visual classification."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.audio_visual import digits
from datamodules.audio_visual.clips import Augmentation, ClipItems, ClipStore, Windows, skip_bad
from datamodules.audio_visual.digits import DigitPairs, DigitTask, Source, Weakening
from datamodules.audio_visual.layouts import OWN_SPLITS, READERS, Clip, ClipList, listed_files, read_layout
from datamodules.audio_visual.log_mel import LogMel
from datamodules.loading.arguments import data_folder
from datamodules.loading.files import written_whole
from datamodules.loading.loaders import SplitModule
from datamodules.loading.ranges import (
    Depth,
    DepthOrZero,
    Finite,
    Many,
    NonNegative,
    Positive,
    Share,
    Size,
    SizeOrZero,
    Workers,
    check_ranges,
)
from datamodules.loading.terminal import say

_MODALITIES = ("rgb", "spectrogram")


class AudioVisual(SplitModule):
    """Clips with frames and log-mel spectrograms, from the released layouts or embedded digits.

    Batch: ``rgb`` float32 (B, 3, T, S, S) in [-1, 1], ``spectrogram`` float32 (B, 1, T_a, M) normalised,
    ``label`` int64 (B,), of Epic-Kitchens (B, 2), of multi-label data float32 (B, C), ``index`` int64 (B,);
    ``present`` bool (B, 2) in batches where a clip lacks a modality, whose input is then 0. With
    ``test_crops`` above 1, inputs of test and prediction have the crops after B.

    ``digits`` needs no file but takes spoken digits from ``root/fsdd/fsdd_1500.npz`` where it is there.
    Validation and test are the published validation or evaluation set; of ``digits`` the held-out sources.
    Media are decoded once into a cache, with a progress bar; those that cannot be are skipped and counted.
    Without a cache the first bad file stops the run with its path.

    Args:
        layout: ``digits``, ``vggsound``, ``audioset``, ``epic``, ``kinetics``, ``moments``, ``csv`` (a list
            of video, audio, label, split) or ``folder`` (a folder per class).
        root: of the data set; defaults to ``$ZOO_DATA/<layout>`` or ``data/<layout>``, of ``digits`` to
            ``$ZOO_DATA`` or ``data``.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        modalities: ``rgb``, ``spectrogram`` or both.
        seconds: t of sound; T_a = 100 t.
        frames: T.
        frame_stride: in frames at ``fps``; 0 spreads the frames over the t seconds.
        fps: of the frames that are taken of video, and of Epic-Kitchens' extracted ones.
        image_size: S.
        mel_bins: M; sound is mono at 16 kHz, windows of 25 ms every 10 ms.
        spectrogram_mean: of the features; null measures the training set, outside training only if the model
            does not know it (official checkpoints of full AudioSet have 1.102, of features whose offset was
            never published).
        spectrogram_std: likewise (2.762).
        async_sampling: training windows of sound and frames start apart.
        augment: crop, flip and colour jitter of frames, SpecAugment of sound, in training.
        colour_jitter: part of it.
        time_masks: number of SpecAugment's masks in time.
        time_width: their largest width, in frames.
        frequency_masks: number of its masks in frequency.
        frequency_width: their largest width, in bins.
        test_crops: windows in test and prediction, spread linearly.
        train_set: ``balanced`` or ``unbalanced`` AudioSet.
        multi_label: of ``csv``: labels are separated by ";".
        predict_files: a media file, or a folder of them, for ``zoo predict``; null predicts the test clips.
        cache: keep decoded features and frames.
        cache_dir: where; null is ``root/zoo_cache``.
        digit_task: ``same`` (both digits are the class) or ``sum`` ((v + a) mod 3 of independent 0, 1, 2).
        source: of ``digits``: ``real``, ``procedural`` or ``auto``.
        pairs: training pairs of ``digits``.
        test_pairs: held-out pairs of ``digits``.
        image_noise: deviation of the noise that makes pictures weak.
        pca_energy: share of the pictures' variance that stays.
        audio_snr_db: white noise this many dB below the sounds.
        num_workers: loader processes, and threads that fill the cache.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "layout",
        "train_set",
        "source",
        "pairs",
        "test_pairs",
        "image_noise",
        "audio_snr_db",
        "pca_energy",
    )

    of_weights: ClassVar[tuple[str, ...]] = (
        *("seconds", "frames", "frame_stride", "fps", "image_size", "mel_bins", "digit_task"),
        *("spectrogram_mean", "spectrogram_std"),
    )

    def __init__(
        self,
        layout: Literal[
            "digits", "vggsound", "audioset", "epic", "kinetics", "moments", "csv", "folder"
        ] = "digits",
        root: str | None = None,
        batch_size: Many = 64,
        eval_batch_size: Many = 64,
        modalities: tuple[str, ...] | list[str] = _MODALITIES,
        seconds: Positive = 8.0,
        frames: Size | None = None,
        frame_stride: SizeOrZero = 0,
        fps: Positive = 25.0,
        image_size: Size | None = None,
        mel_bins: Size | None = None,
        spectrogram_mean: Finite | None = None,
        spectrogram_std: Positive | None = None,
        async_sampling: bool = False,
        augment: bool = True,
        colour_jitter: bool = True,
        time_masks: DepthOrZero = 1,
        time_width: SizeOrZero = 192,
        frequency_masks: DepthOrZero = 1,
        frequency_width: SizeOrZero = 48,
        test_crops: Depth = 4,
        train_set: Literal["balanced", "unbalanced"] = "balanced",
        multi_label: bool = False,
        predict_files: str | None = None,
        cache: bool = True,
        cache_dir: str | None = None,
        digit_task: DigitTask = "same",
        source: Source = "auto",
        pairs: Many = 3000,
        test_pairs: Many = 1000,
        image_noise: NonNegative = 0.0,
        pca_energy: Share = 1.0,
        audio_snr_db: Finite | None = None,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(AudioVisual, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        if layout != "digits" and layout not in READERS:
            raise ValueError(f"layout must be digits, {', '.join(READERS)}, got {layout!r}")
        if not modalities or set(modalities) - set(_MODALITIES):
            raise ValueError(f"modalities must be of {', '.join(_MODALITIES)}, got {list(modalities)}")
        if (spectrogram_mean is None) != (spectrogram_std is None):
            raise ValueError("give both spectrogram_mean and spectrogram_std, or neither")
        embedded = layout == "digits"
        self.layout, self.root = layout, data_folder(root, "" if embedded else layout)
        self.modalities, self.test_crops = tuple(modalities), test_crops
        self.frames = frames or (1 if embedded else 8)
        self.image_size = digits.SIDE if embedded else image_size or 224
        front = digits.FRONT_END if embedded else LogMel(bins=mel_bins or 128)
        length = digits.SAMPLES / front.hop if embedded else seconds * front.frames_per_second
        self.spectrogram_frames, self.log_mel = round(length), front
        given = None if spectrogram_mean is None else (spectrogram_mean, spectrogram_std or 1.0)
        self.normalisation: tuple[float, float] | None = given
        self.windows = Windows(seconds, self.frames, frame_stride, fps, async_sampling)
        masks = Augmentation(True, colour_jitter, time_masks, time_width, frequency_masks, frequency_width)
        self.augmentation = masks if augment else None
        self.options = {"train_set": train_set, "multi_label": multi_label}
        self.predict_files = Path(predict_files) if predict_files else None
        cache_root = Path(cache_dir) if cache_dir else self.root / "zoo_cache"
        if self.root.is_file() and not cache_dir:  # a csv
            cache_root = self.root.parent / "zoo_cache"
        self.cache_dir = cache_root if cache else None
        self.digit_task, self.source, self.pairs, self.test_pairs = digit_task, source, pairs, test_pairs
        self.weakening = Weakening(image_noise, pca_energy, audio_snr_db)
        self.shapes = {
            "rgb": (3, self.frames, self.image_size, self.image_size),
            "spectrogram": (1, self.spectrogram_frames, front.bins),
        }
        self.shapes = {k: v for k, v in self.shapes.items() if k in self.modalities}
        self.num_classes: int | None = None
        self.task: str | None = None
        self.class_names: list[str] = []
        self.facts: dict[str, Any] = {}

    # --- files ---------------------------------------------------------------------------------------------

    def _store(self) -> ClipStore:
        side = round(self.image_size * 256 / 224)
        sound, pictures = "spectrogram" in self.modalities, "rgb" in self.modalities
        return ClipStore(self.log_mel, self.windows.fps, side, self.cache_dir, sound, pictures)

    def _list(self, split: Any) -> ClipList:
        return read_layout(self.layout, self.root, split, **self.options)

    def _splits(self, stage: str) -> tuple[str, ...]:
        if stage == "predict" and self.predict_files is not None:
            return ("train",) if self.normalisation is None else ()
        held_out = ("val", "test") if self.layout in OWN_SPLITS else ("test",)
        return ("train", *held_out) if stage == "fit" or self.normalisation is None else held_out

    def prepare_data(self) -> None:
        """Decode all clips of the splits into the cache, and measure the features of the training clips."""
        if self.layout == "digits" or self.cache_dir is None:
            return
        stage = "fit" if self.trainer is None else str(self.trainer.state.fn.value)  # type: ignore[union-attr]
        self._take_statistics(stage)
        store = self._store()
        for split in self._splits(stage):
            found = self._list(split)
            bad = store.build(found.clips, self.num_workers, f"{split} clips of {self.layout}")
            self._note(split, found.clips, bad)
            measured = self._statistics_file()
            if split == "train" and self.normalisation is None and not measured.is_file():
                good = [c for c in found.clips if c.name not in self._read_bad(split)]
                mean, deviation = store.statistics(good)
                measured.write_text(json.dumps({"mean": mean, "std": deviation, "clips": len(good)}))

    def _of_model(self, name: str) -> Any:
        """A hyperparameter of the model that is run, None where it has none."""
        return getattr(getattr(self.trainer, "lightning_module", None), "hparams", {}).get(name)

    def _take_statistics(self, stage: str) -> None:
        known = self._of_model("spectrogram_mean"), self._of_model("spectrogram_std")
        if stage != "fit" and self.normalisation is None and None not in known:
            self.normalisation = known

    def _digest(self, split: str) -> str:
        import hashlib

        key = json.dumps([self._store().settings, self.layout, str(self.root), split, self.options])
        return hashlib.sha256(key.encode()).hexdigest()[:12]

    def _statistics_file(self) -> Path:
        assert self.cache_dir is not None
        return self.cache_dir / f"statistics_{self._digest('train')}.json"

    def _bad_file(self, split: str) -> Path:
        assert self.cache_dir is not None
        return self.cache_dir / f"skipped_{split}_{self._digest(split)}.json"

    def _note(self, split: str, clips: list[Clip], bad: dict[str, str]) -> None:
        with written_whole(self._bad_file(split)) as temporary:
            temporary.write_text(json.dumps(bad, indent=1, ensure_ascii=False))

    def _read_bad(self, split: str) -> dict[str, str]:
        if self.cache_dir is None or not self._bad_file(split).is_file():
            return {}
        found: dict[str, str] = json.loads(self._bad_file(split).read_text())
        return found

    # --- sets ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if self.layout == "digits":
            self._setup_digits()
            return
        self._take_statistics(stage)
        if self.normalisation is None and "spectrogram" in self.modalities:
            self.normalisation = self._measured()
        self.facts = self._statistics()
        store = self._store()
        if stage == "predict" and self.predict_files is not None:
            self._setup_files(store)
            return
        if stage == "fit":
            self.train_set = self._items(store, "train", 1, self.augmentation)
        if stage in ("fit", "validate"):
            self.val_set = self._items(store, "val" if self.layout in OWN_SPLITS else "test", 1)
        if stage in ("test", "predict"):
            self.test_set = self.predict_set = self._items(store, "test", self.test_crops)

    def _measured(self) -> tuple[float, float]:
        if self.cache_dir is None or not self._statistics_file().is_file():
            raise ValueError(
                "data.init_args.spectrogram_mean and spectrogram_std are null and are measured on the cached "
                "training clips: set data.init_args.cache: true, or give both"
            )
        found = json.loads(self._statistics_file().read_text())
        return float(found["mean"]), float(found["std"])

    def _items(
        self, store: ClipStore, split: str, crops: int, augmentation: Augmentation | None = None
    ) -> ClipItems:
        found = self._list(split)
        self._take_classes(found)
        clips = skip_bad(found.clips, self._read_bad(split), split)
        return self._windowed(store, clips, found.task, len(found.class_names), crops, augmentation)

    def _windowed(self, store: ClipStore, clips: list[Clip], *task: Any) -> ClipItems:
        """Windows of clips; ``task`` is the rest of the arguments of :class:`ClipItems`, in their order."""
        given = (self.windows, self.image_size, self.spectrogram_frames, self.normalisation or (0.0, 1.0))
        return ClipItems(clips, store, *given, *task)

    def _statistics(self) -> dict[str, float]:
        """Mean and deviation of the features, as weights keep them."""
        keys = ("spectrogram_mean", "spectrogram_std")
        return (
            {} if self.normalisation is None else dict(zip(keys, map(float, self.normalisation), strict=True))
        )

    def _take_classes(self, found: ClipList) -> None:
        self.num_classes, self.task, self.class_names = len(found.class_names), found.task, found.class_names

    def _setup_files(self, store: ClipStore) -> None:
        assert self.predict_files is not None
        found = listed_files(self.predict_files)
        store.cache = None
        self.class_names = list(self._of_model("class_names") or [])
        if not self.class_names:
            with contextlib.suppress(FileNotFoundError):  # numbers then
                self.class_names = self._list("train").class_names
        reasons: dict[str, str] = {}
        for clip in found.clips:
            try:
                store.check(clip)
            except ValueError as error:
                reasons[clip.name] = str(error)
        clips = skip_bad(found.clips, reasons, "prediction")
        self.predict_set = self._windowed(store, clips, "none", 0, self.test_crops, None, True)

    def _setup_digits(self) -> None:
        recordings = digits.load(self.root, self.source)
        missing = self.root / digits.FILE
        if self.source == "auto" and not missing.is_file():
            say(
                f"no spoken digits at {missing}: the data are {recordings.name} instead; set ZOO_DATA or "
                "data.init_args.root, or data.init_args.source: procedural"
            )
        energy, kept = self.weakening.pca_energy, recordings.picture_train
        weak = digits.keep_components(recordings.pictures, kept, energy)
        recordings = replace(recordings, pictures=weak)
        sets = [
            DigitPairs(recordings, train, count, self.digit_task, self.weakening, self.frames)
            for train, count in ((True, self.pairs), (False, self.test_pairs))
        ]
        self.normalisation = self.normalisation or sets[0].statistics()
        for data in sets:
            data.normalisation = self.normalisation
        self.train_set = sets[0]
        self.val_set = self.test_set = self.predict_set = sets[1]
        self.num_classes, self.task = (10 if self.digit_task == "same" else 3), "single_label"
        self.class_names = [str(c) for c in range(self.num_classes)]
        self.facts = {"set": recordings.name} | self._statistics()

    def clip_name(self, index: int) -> str:
        """Name of an item of the prediction set."""
        data = self.predict_set
        return data.name(index) if isinstance(data, DigitPairs) else data.clips[index].name
