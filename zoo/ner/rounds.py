"""Rounds inside one ``fit``: an epoch is a round, at whose end the pool is scored and asked.

The data module is known by its interface alone: ``pool`` (round, budget, unlabelled, waiting, held_out,
batches_before, costs, answers, drafts), ``lengths``, ``batch_of``, ``pool_batches``, ``updates_of_round``,
``last_round``, ``labels_of`` and ``ask``.

The end of a round comes after its validation and before the checkpoint: a resumed run goes on with the new
pool. Nothing here draws from the global generator.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.ner.choice import choose
from zoo.ner.curves import kappa, stabilised
from zoo.ner.history import audit, seconds_of, summary
from zoo.ner.report import draw_rounds
from zoo.ner.schemes import Span, spans_of
from zoo.ner.tagger import Scored, score_batch
from zoo.nn.parallel import refuse_sharding
from zoo.randomness import derived_seed, global_seed
from zoo.reports import replace_file, say

_DROPOUT = 711


class Rounds(Callback):
    """Ends rounds, asks, and keeps the history.

    Attributes:
        rows: what each finished round was: its labelled words, F1, and what was asked at its end.
        kappas: agreement of the models of successive rounds on the held-out sample.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.kappas: list[float | None] = []
        self._held_out_tags: list[int] = []
        self._initial: dict[str, torch.Tensor] | None = None
        self._stopped = False
        self._validated_at = -1
        self._since = time.monotonic()
        self._seconds: dict[int, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_sharding(pl_module)
        if not hasattr(getattr(trainer, "datamodule", None), "pool_batches"):
            raise ValueError(
                "ActiveNER asks for labels of a pool, which these data do not have; set data.class_path: "
                "datamodules.NER (seed_budget: 100, unit: percent and rounds: 0 train on all of them)"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if pl_module.hparams["stop_agreement"] is not None and not data.held_out:
            raise ValueError(
                "model.init_args.stop_agreement compares models on held-out sentences: set "
                "data.init_args.held_out, 200 for instance"
            )
        # the training set of a round is new
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not pl_module.hparams["warm_start"] and self._initial is None:
            network = pl_module.network.state_dict()  # type: ignore[union-attr]
            self._initial = {k: v.detach().cpu().clone() for k, v in network.items()}
        if data.pool.waiting:
            say(
                f"{len(data.pool.waiting):,} sentences wait for labels: give their files with "
                "--data.init_args.labels='[FILE, ...]'"
            )
            trainer.should_stop = True
        elif self.rows and self.rows[-1]["round"] == data.pool.round:
            # a run that had come to its end; more rounds may be allowed since
            if data.last_round or self._stopped:
                trainer.should_stop = True
            else:
                self._ask(trainer, pl_module)
                trainer.fit_loop._last_train_dl_reload_epoch = float("-inf")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_at = trainer.global_step

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready - data.pool.batches_before
        if done < data.updates_of_round():
            return  # max_steps ended the run inside the round
        self._close(trainer, pl_module)
        if self._stopped or data.last_round:
            trainer.should_stop = True
        else:
            self._ask(trainer, pl_module)
        self._log(pl_module)
        self._write(trainer)

    # --- the end of a round -------------------------------------------------------------------------------

    def _close(self, trainer: Trainer, module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        # that of an earlier round is not this one's
        validated = self._validated_at == trainer.global_step
        f1 = trainer.callback_metrics.get("val/f1") if validated else None
        labelled = data.pool.labelled
        words = sum(data.lengths[i] for i in labelled)
        row = {
            "round": data.pool.round,
            "sentences": len(labelled),
            "words": words,
            "share": words / sum(data.lengths),
            "f1": None if f1 is None else float(f1),
            "start": "warm" if module.hparams["warm_start"] else "cold",
        }
        if getattr(data, "unit", "words") == "cost":
            row["cost"] = math.fsum(data.pool.costs[i] for i in labelled)
        self.rows.append(row)
        if data.pool.held_out:
            self._compare_models(trainer, module, data)
        self._seconds[data.pool.round] = time.monotonic() - self._since
        self._since = time.monotonic()

    def _compare_models(self, trainer: Trainer, module: Any, data: Any) -> None:
        found = self._score(trainer, module, data.pool.held_out, "mnlp")
        tags = [tag for i in data.pool.held_out for tag in found[i][2]]
        if self._held_out_tags:
            self.kappas.append(kappa(self._held_out_tags, tags))
            self.rows[-1]["agreement"] = self.kappas[-1]
        self._held_out_tags = tags
        threshold = module.hparams["stop_agreement"]
        if threshold is not None and stabilised(self.kappas, threshold):
            mean = sum(k for k in self.kappas[-3:] if k is not None) / 3
            self.rows[-1]["stop"] = mean
            say(
                f"round {data.pool.round}: successive models agree to {mean:.4f} (kappa, three rounds) on "
                f"{len(data.pool.held_out):,} held-out sentences: labelling more is unlikely to help"
            )
            self._stopped = self._stopped or module.hparams["stop_training"]

    def _ask(self, trainer: Trainer, module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        pool = data.pool
        acquisition = module.hparams["acquisition"]
        before_now = next((r["acquisition"] for r in reversed(self.rows) if "acquisition" in r), acquisition)
        if before_now != acquisition:
            say(f"from round {pool.round} on {acquisition} asks, before it {before_now}; see asked.jsonl")
        chosen, values, tags = self._choose(trainer, module, data)
        guesses = {i: spans_of([module.hparams["tags"][t] for t in tags[i]]) for i in chosen if i in tags}
        before = pool.unlabelled
        place = trainer.log_dir
        folder = Path(place) if place is not None and trainer.is_global_zero else None
        answered = data.ask(chosen, values, guesses, folder)
        self.rows[-1] |= {"acquisition": acquisition, **self._asked(data, chosen, before, values, answered)}
        if not answered:
            say(
                f"{len(chosen):,} sentences wait for labels; go on with --ckpt_path last "
                "--data.init_args.labels='[FILE, ...]'"
            )
            trainer.should_stop = True
        elif not module.hparams["warm_start"]:
            module.network.load_state_dict(self._initial)
            for optimizer in trainer.optimizers:
                optimizer.state.clear()

    def _asked(
        self,
        data: Any,
        chosen: Sequence[int],
        before: Sequence[int],
        values: Mapping[int, float],
        answered: bool,
    ) -> dict[str, Any]:
        """What a query was like beside the pool that it chose from."""
        lengths = data.lengths
        found: dict[str, Any] = {
            "asked": len(chosen),
            "asked_words": sum(lengths[i] for i in chosen) / len(chosen),
            "pool_words": sum(lengths[i] for i in before) / len(before),
            "scores": [values[i] for i in chosen if i in values],
            "indices": list(chosen),
        }
        if answered:
            spans: list[Sequence[Span]] = [data.labels_of(i) for i in chosen]
            found["asked_with_entity"] = sum(map(bool, spans)) / len(chosen)
            found["asked_types"] = dict(Counter(kind for s in spans for *_, kind in s))
        if data.genres:
            named = Counter(data.sets["train"][i].genre for i in chosen)
            found["asked_genres"] = {genre: named[genre] for genre in data.genres}
        return found

    # --- who is asked --------------------------------------------------------------------------------------

    def _choose(
        self, trainer: Trainer, module: Any, data: Any
    ) -> tuple[list[int], dict[int, float], dict[int, list[int]]]:
        """Indices in order, their scores, and the tags that the model guesses."""
        return choose(module.hparams, data, lambda indices, name: self._score(trainer, module, indices, name))

    def _score(
        self, trainer: Trainer, module: Any, indices: Sequence[int], name: str
    ) -> dict[int, tuple[float, float, list[int], torch.Tensor]]:
        """Index -> score, MNLP, tags and mean vector. Processes take whole batches in turn, and then all know
        all: a batch gives the same whoever scores it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batches = data.pool_batches(indices)
        training = module.training
        module.eval()
        mine: dict[int, Any] = {}
        try:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                for number in range(trainer.global_rank, len(batches), trainer.world_size):
                    mine |= self._score_one(module, data, batches[number], name, number)
        finally:
            module.train(training)
        if trainer.world_size == 1:
            return mine
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, mine)
        return {i: row for part in parts for i, row in part.items()}

    @staticmethod
    def _score_one(module: Any, data: Any, batch: Sequence[int], name: str, number: int) -> dict[int, Any]:
        words = data.batch_of(batch)["words"]
        h = module.hparams
        seed = derived_seed(_DROPOUT, global_seed(), data.pool.round, number)
        encoded = module.encode(words)
        got: Scored = score_batch(module.network, encoded, name, h["mc_passes"], seed, h["mc_repeats"])
        rows = zip(
            got.score.tolist(), got.mnlp.tolist(), got.tags.tolist(), got.vectors.float().cpu(), strict=True
        )
        keep = name == "submod" or h["max_similarity"] is not None
        return {
            i: (score, mnlp, tags[: len(w)], vector if keep else torch.empty(0))
            for i, w, (score, mnlp, tags, vector) in zip(batch, words, rows, strict=True)
        }

    # --- what is told ----------------------------------------------------------------------------------

    def _log(self, module: Any) -> None:
        data: Any = module.trainer.datamodule
        by_words = getattr(data, "unit", "words") != "sentences"
        found = summary(self.rows, data.pool.budget if by_words else None, module.hparams["target_f1"])
        module.log_dict({f"rounds/{k}": float(v) for k, v in found.items()}, batch_size=1)

    def _write(self, trainer: Trainer) -> None:
        """``rounds.jsonl`` and ``asked.jsonl`` of the run, and their picture."""
        place = trainer.log_dir  # the processes agree on it: asked by one alone, it waits for ever
        if not trainer.is_global_zero or place is None or not trainer.loggers:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        folder = Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rounds.jsonl"
        seconds = seconds_of(path) | self._seconds
        lines = []
        for row in self.rows:
            shown = {k: v for k, v in row.items() if k not in ("indices", "scores")}
            lines.append(json.dumps({**shown, "seconds": round(seconds.get(row["round"], 0.0), 3)}))
        replace_file(path, "\n".join(lines) + "\n")
        replace_file(folder / "asked.jsonl", audit(self.rows, data, trainer.lightning_module.hparams))
        if trainer.should_stop:
            draw_rounds(folder / "rounds.png", self.rows)
            say(f"rounds      {path}, asked.jsonl and rounds.png")

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "kappas": self.kappas,
            "held_out_tags": self._held_out_tags,
            "initial": self._initial,
            "stopped": self._stopped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.kappas = list(state_dict["rows"]), list(state_dict["kappas"])
        self._held_out_tags, self._initial = list(state_dict["held_out_tags"]), state_dict["initial"]
        self._stopped = bool(state_dict["stopped"])
