"""What is said of a ranking of pairs and of an embedding, and what ``zoo predict`` leaves of both."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing
from zoo.graphs.link.network import pair_codes

_PAIRS_AT_ONCE = 1 << 20
_LARGEST_TSNE = 5000
_SPLITS = ("val", "test")


def ranks(scores: Tensor) -> Tensor:
    """Scores (P,) as float64 in [0, 1] with the same order and the same ties.

    Probabilities would not do: a float32 sigmoid makes all logits above 17 equal.
    """
    place: Tensor = scores.unique(return_inverse=True)[1].double()
    return place / place.max().clamp(min=1)


def top_new_links(
    score: Callable[[Tensor], Tensor], known: Tensor, nodes: int, count: int
) -> tuple[Tensor, Tensor]:
    """The ``count`` highest scores among all pairs i < j outside ``known`` (2, E), in blocks of rows.

    Returns:
        Pairs (2, K) and scores (K,), best first; K is smaller where the graph has fewer free pairs.
    """
    device = known.device
    taken = pair_codes(known, nodes).sort().values
    best, found = torch.empty(0, device=device), torch.empty(2, 0, dtype=torch.long, device=device)
    rows = max(1, _PAIRS_AT_ONCE // nodes)
    columns = torch.arange(nodes, device=device)
    for start in range(0, nodes if count else 0, rows):
        first = torch.arange(start, min(start + rows, nodes), device=device)
        pairs = torch.stack([first.repeat_interleave(nodes), columns.repeat(len(first))])
        pairs = pairs[:, pairs[0] < pairs[1]]
        codes = pair_codes(pairs, nodes)
        place = torch.searchsorted(taken, codes).clamp(max=max(len(taken) - 1, 0))
        pairs = pairs[:, taken[place] != codes] if len(taken) else pairs
        scores = torch.cat([best, score(pairs).detach().to(best)])
        found = torch.cat([found, pairs], dim=1)
        best, order = scores.topk(min(count, len(scores)))
        found = found[:, order]
    return found, best


def embedding_quality(z: Tensor, batch: Any, seed: int) -> dict[str, float]:
    """What an unsupervised embedding z (N, D) knows of labels that it has not seen.

    ``kmeans_nmi`` and ``kmeans_ari``: normalised mutual information and adjusted Rand index of k-means with
    as many clusters as classes. ``probe_accuracy``: of a logistic regression fitted on the training nodes, on
    the test nodes. Without labels (or masks) empty.
    """
    if "y" not in batch or batch.y.ndim != 1:
        return {}
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.preprocessing import StandardScaler

    codes, labels = z.detach().double().cpu().numpy(), batch.y.cpu().numpy()
    clusters = KMeans(len(np.unique(labels)), n_init=10, random_state=seed).fit_predict(codes)
    found = {
        "kmeans_nmi": float(normalized_mutual_info_score(labels, clusters)),
        "kmeans_ari": float(adjusted_rand_score(labels, clusters)),
    }
    if "train_mask" in batch and "test_mask" in batch:
        train, test = batch.train_mask.cpu().numpy(), batch.test_mask.cpu().numpy()
        if train.any() and test.any() and len(np.unique(labels[train])) > 1:
            scaler = StandardScaler().fit(codes[train])
            probe = LogisticRegression(max_iter=1000).fit(scaler.transform(codes[train]), labels[train])
            found["probe_accuracy"] = float(probe.score(scaler.transform(codes[test]), labels[test]))
    return found


@dataclass
class LinkPredictions:
    """Held-out pairs with their scores, likely new links, the embedding.

    Attributes:
        pairs: per split (``val``, ``test``) ``edges`` and ``non_edges`` (2, K).
        logits: the same keys, (K,).
        new_pairs: (2, T) likeliest pairs that are edges of no split.
        new_logits: (T,).
        embedding: mu (N, D), or None.
        labels: classes (N,), or None.
        title: of the picture.
    """

    pairs: dict[str, dict[str, Tensor]]
    logits: dict[str, dict[str, Tensor]]
    new_pairs: Tensor
    new_logits: Tensor
    embedding: Tensor | None
    labels: Tensor | None
    title: str

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv``, ``links.png`` and, of an embedding, ``embedding.npz`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        outputs = [folder / "scores.csv", folder / "links.png"]
        self._write_scores(outputs[0])
        self._draw(outputs[1])
        if self.embedding is not None:
            outputs.append(folder / "embedding.npz")
            arrays = {"embedding": self.embedding.float().numpy()}
            if self.labels is not None:
                arrays["label"] = self.labels.numpy()
            np.savez_compressed(outputs[-1], allow_pickle=False, **arrays)
        return outputs

    def _write_scores(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["set", "a", "b", "edge", "logit", "probability", "label_a", "label_b"])
            for split in _SPLITS:
                for kind in ("edges", "non_edges"):
                    known = int(kind == "edges")
                    self._write_rows(writer, split, self.pairs[split][kind], known, self.logits[split][kind])
            self._write_rows(writer, "new", self.new_pairs, 0, self.new_logits)

    def _write_rows(self, writer: Any, name: str, pairs: Tensor, edge: int, logits: Tensor) -> None:
        for (a, b), logit in zip(pairs.T.tolist(), logits.double().tolist(), strict=True):
            labels = ["", ""] if self.labels is None else [int(self.labels[a]), int(self.labels[b])]
            probability = 1 / (1 + np.exp(-logit))
            writer.writerow([name, a, b, edge, f"{logit:.6g}", f"{probability:.6f}", *labels])

    def _draw(self, path: Path) -> None:
        panels = 3 if self.embedding is None else 4
        with drawing(path, 1, panels, figsize=(4.6 * panels, 4.4), dpi=90) as (figure, axes):
            self._draw_curves(axes[0], axes[1])
            self._draw_histogram(axes[2])
            if self.embedding is not None:
                self._draw_embedding(axes[3])
            figure.suptitle(self.title)

    def _draw_curves(self, roc: Any, precision: Any) -> None:
        from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

        for split in _SPLITS:
            kinds = self.logits[split]
            truth = np.repeat([1, 0], [len(kinds["edges"]), len(kinds["non_edges"])])
            values = torch.cat([kinds["edges"], kinds["non_edges"]]).double().numpy()
            x, y, _ = roc_curve(truth, values)
            roc.plot(x, y, label=f"{split}: AUC {roc_auc_score(truth, values):.3f}")
            y, x, _ = precision_recall_curve(truth, values)
            precision.step(x, y, label=f"{split}: AP {average_precision_score(truth, values):.3f}")
        roc.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        roc.set(title="ROC of held-out pairs", xlabel="false positive rate", ylabel="true positive rate")
        precision.set(title="precision and recall", xlabel="recall", ylabel="precision", ylim=(0.45, 1.02))
        for axis in (roc, precision):
            axis.legend(fontsize=8)

    def _draw_histogram(self, axis: Any) -> None:
        kinds = {k: torch.cat([self.logits[s][k] for s in _SPLITS]).float() for k in ("edges", "non_edges")}
        every = torch.cat(list(kinds.values()))
        low, high = torch.quantile(every, torch.tensor([0.002, 0.998])).tolist()
        if low == high:
            low, high = low - 0.5, high + 0.5
        bins = np.linspace(low, high, 41)
        for name, colour in (("edges", "tab:blue"), ("non_edges", "tab:orange")):
            values = kinds[name].clamp(bins[0], bins[-1]).numpy()
            label = f"held-out {name.replace('_', '-')} ({len(values):,})"
            axis.hist(values, bins, alpha=0.6, color=colour, label=label)
        axis.set(title="scores", xlabel="logit", ylabel="pairs")
        axis.legend(fontsize=8)

    def _draw_embedding(self, axis: Any) -> None:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        assert self.embedding is not None
        codes = self.embedding.double().numpy()
        if 30 < len(codes) <= _LARGEST_TSNE:
            points = TSNE(init="pca", random_state=0, perplexity=min(30, len(codes) / 4)).fit_transform(codes)
            name = "t-SNE"
        else:
            points, name = PCA(2, random_state=0).fit_transform(codes), "two principal directions"
        colours = None if self.labels is None or self.labels.ndim != 1 else self.labels.numpy()
        axis.scatter(points[:, 0], points[:, 1], c=colours, s=6, cmap="tab10", linewidths=0)
        axis.set(title=f"embedding ({name}), coloured by class", xticks=[], yticks=[])
