"""Rounds inside one ``fit``: after an epoch of the first half what is wrong is mined, varied and appended.

The data module is known by its interface alone: ``held_out_dataloader``, ``held_out_members``, ``guides``,
``near_pixels``, ``training_labels``, ``initial_items``, ``generated_size``, ``append``, ``give_back``,
``returned``, ``epoch_ends``, ``epochs_done``, ``batches_before``, ``batches_of_epoch``.

A round comes after the epoch's validation and before its checkpoint. Its images are files of the run,
listed in ``generated/manifest.csv``; a checkpoint knows how many rows are its own, and a resumed run
rebuilds its set and memory from them. A run that was killed in the middle of a round finds the images of
that round again. Nothing here draws from the global generator.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed

from zoo.actgen import manifest
from zoo.actgen.files import GENERATED, RoundFiles, copied, read_latent, restored, round_key
from zoo.actgen.history import in_numbers, refusals, write_rounds
from zoo.actgen.manifest import Row
from zoo.actgen.memory import ClassMemory
from zoo.actgen.mining import Mined, Planned, choose, mined, plan, random_guides
from zoo.actgen.variation import Variation, in_batches
from zoo.randomness import global_seed
from zoo.reports import say

_DATA = (
    "zoo.ActGen needs data with a held-out part that grow: set data.class_path: datamodules.ActiveGeneration"
)


class Rounds(Callback):
    """Mines, generates, appends and gives the held-out part back.

    Attributes:
        rows: of all generated images of the run so far.
        rounds: what each round was, in numbers.
        memory: latents of guided images.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.rounds: list[dict[str, Any]] = []
        self.memory = ClassMemory()
        self._later: list[Row] = []

    @property
    def state_key(self) -> str:
        return "ActGen"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not hasattr(getattr(trainer, "datamodule", None), "held_out_dataloader"):
            raise ValueError(_DATA)
        # the training set of an epoch is new
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What cannot work is said before the training."""
        module: Any = pl_module
        if module.hparams["generation"] == "none":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if module.hparams["generation"] != "real_guidance" and not len(data.held_out_members):
            raise ValueError("nothing is held out, so nothing can be wrong: set data.init_args.held_out")
        module.maker()

    # --- the end of an epoch ------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        total = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if total - data.batches_before < data.batches_of_epoch:
            return  # max_steps ended the run inside the epoch
        epoch, epochs = data.epochs_done, module._epochs
        if epoch < epochs // 2 and module.hparams["generation"] != "none":
            self._round(trainer, module, data, epoch, epochs)
        elif epoch == epochs // 2 and not data.returned and len(data.held_out_members):
            data.give_back()
            say(f"half time: {len(data.held_out_members):,} held-out images join the training")
        data.epoch_ends(total)

    def _round(self, trainer: Trainer, module: Any, data: Any, epoch: int, epochs: int) -> None:
        began = time.monotonic()
        place = trainer.log_dir
        assert place is not None
        folder = Path(place) / GENERATED
        network = copy.deepcopy(module.network).eval().requires_grad_(False)
        found = self._mine(trainer, module, network, data) if len(data.held_out_members) else None
        items = self._plan(module, data, found, epoch, epochs)
        row: dict[str, Any] = {"epoch": epoch, "wrong": None, "held_out_error": None}
        if found is not None:
            wrong = int(found.wrong.sum())
            row |= {"wrong": wrong, "held_out_error": wrong / len(found.wrong)}
        if not items:
            say(f"epoch {epoch}: no held-out image is wrong, nothing is generated")
        rows = self._generate(trainer, module, data, network, items, found, folder, epoch) if items else []
        self._take(data, folder, rows)
        self._tell(trainer, module, row, rows, folder, data, time.monotonic() - began)

    # --- who is varied ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _mine(self, trainer: Trainer, module: Any, network: Any, data: Any) -> Mined:
        """What the classifier makes of all held-out images, on every process."""
        index, scores, labels = [], [], []
        for batch in data.held_out_dataloader():
            index.append(batch["index"])
            labels.append(batch["label"])
            with trainer.precision_plugin.forward_context():
                scores.append(network(batch["image"].to(module.device)).float().cpu())
        own = tuple(torch.cat(parts) for parts in (index, scores, labels))
        parts: list[Any] = [own]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            distributed.all_gather_object(parts, own)
        places, score, label = (torch.cat(p) for p in zip(*parts, strict=True))
        order = places.argsort()
        return mined(score[order], label[order])

    def _plan(self, module: Any, data: Any, found: Mined | None, epoch: int, epochs: int) -> list[Planned]:
        h, seed = module.hparams, global_seed()
        if h["generation"] == "real_guidance":
            labels = data.training_labels()
            chosen = random_guides(labels, h["images_per_round"], seed, epoch)
        else:
            assert found is not None
            labels = found.label.tolist()
            chosen = choose(
                found, h["images_per_round"], h["select"], seed, epoch, h["none_wrong"], h["balanced"]
            )
        guided = [labels[i] for i in chosen]
        return plan(chosen, guided, h["generation"], seed, epoch, epochs, h["random_rate"], h["curriculum"])

    # --- what is made -------------------------------------------------------------------------------------

    def _generate(
        self,
        trainer: Trainer,
        module: Any,
        data: Any,
        network: Any,
        items: Sequence[Planned],
        found: Mined | None,
        folder: Path,
        epoch: int,
    ) -> list[Row]:
        """Rows of the round in the order of its plan; each process makes every world-th image."""
        maker = module.maker(network)
        settings = [maker.settings, maker.generator.name, sorted(module.hparams.items())]
        key = round_key(network, settings, len(self.memory))
        earlier = [row for row in self._later if row.epoch == epoch]
        files = RoundFiles(folder, epoch, key, trainer.global_rank, data.generated_size, earlier)
        trainer.strategy.barrier("zoo.actgen.begin")  # all have read what a killed run left
        files.start()
        mine = items[trainer.global_rank :: trainer.world_size]
        one_by_one, before = module.hparams["memory_update"] == "image", self.memory.copy()
        variation = Variation(module.hparams, data, maker, found, self.memory, files)
        made: list[Row] = []
        for batch in in_batches(mine, module.hparams["generation_batch"]):
            rows = files.again(batch)
            if rows is None:
                rows = variation.rows(batch)
            files.add(rows)
            if one_by_one:
                self._remember(folder, rows)
            made += rows
        self.memory = before  # those of all processes come in the order of the plan, see _take
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(parts, made)
            made = [row for part in parts for row in part]
        made.sort(key=lambda row: row.position)
        if trainer.is_global_zero:
            manifest.write(folder / manifest.NAME, [*self.rows, *made])
            files.finish()
        trainer.strategy.barrier("zoo.actgen.end")
        return made

    # --- what is kept -------------------------------------------------------------------------------------

    def _take(self, data: Any, folder: Path, rows: Sequence[Row]) -> None:
        """Rows of a finished round: into the training set, the memory and the history."""
        used = [row for row in rows if row.used]
        data.append([folder / row.path for row in used], [row.label for row in used])
        self._remember(folder, rows)
        self.rows += rows

    def _remember(self, folder: Path, rows: Sequence[Row]) -> None:
        for row in rows:
            stored = row.stored()
            if stored is not None and row.used:
                self.memory.store(row.label, read_latent(folder / stored))

    def _tell(
        self,
        trainer: Trainer,
        module: Any,
        row: dict[str, Any],
        rows: Sequence[Row],
        folder: Path,
        data: Any,
        seconds: float,
    ) -> None:
        row |= in_numbers(rows, sum(r.used for r in self.rows), data.initial_items)
        row["diversity"] = self.memory.diversity()
        self.rounds.append(row)
        shown = {f"rounds/{k}": float(v) for k, v in row.items() if k != "epoch" and v is not None}
        module.log_dict(shown, batch_size=1)
        if words := refusals(rows):
            say(f"epoch {row['epoch']}: {words}")
        if trainer.is_global_zero and rows:
            write_rounds(folder, self.rounds, rows, module.class_names, seconds)

    # --- checkpoints --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"rows": len(self.rows), "digest": manifest.digest(self.rows), "rounds": self.rounds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rounds = [dict(row) for row in state_dict["rounds"]]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Rebuild set and memory from the manifest, before the loaders are made."""
        state = (checkpoint.get("callbacks") or {}).get(self.state_key)
        place = trainer.log_dir
        if trainer.state.fn != TrainerFn.FITTING or not state or place is None:
            return
        folder, own = Path(place) / GENERATED, trainer.ckpt_path
        source = folder
        if own is not None and not (folder / manifest.NAME).is_file():
            source = Path(own).parent.parent / GENERATED
        if not state["rows"]:
            self._later = manifest.read(source / manifest.NAME) if (source / manifest.NAME).is_file() else []
            return
        rows = manifest.read(source / manifest.NAME)
        kept = rows[: state["rows"]]
        if manifest.digest(kept) != state["digest"]:
            raise ValueError(
                f"{source / manifest.NAME} has other images than the checkpoint was trained on; go on from "
                "the run's own folder, or start anew"
            )
        restored(source, kept)
        if source != folder:
            if trainer.is_global_zero:
                copied(source, folder, kept)
            trainer.strategy.barrier("zoo.actgen.copied")
        self._later = rows[state["rows"] :]
        self._take(trainer.datamodule, folder, kept)  # type: ignore[attr-defined]
