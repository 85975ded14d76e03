"""Every option of a method changes something in the chosen variant, or is refused in one line."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_undirected

import zoo
from zoo.diffusion.losses import timestep_weight
from zoo.graphs.graph.network import GRAPH_ARCHS
from zoo.graphs.graph.readout import READOUTS
from zoo.graphs.node.network import NODE_ARCHS

EDGES = to_undirected(torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 5, 2]]))


def graph() -> Data:
    g = torch.Generator().manual_seed(0)
    return Data(x=torch.rand(7, 5, generator=g), edge_index=EDGES, y=torch.arange(7) % 3)


def of_nodes(module: Any) -> list[Tensor]:
    return module.encoder.embed(graph().x, module.encoder.prepare(EDGES, 7))[0] + [module(graph())]


def of_graphs(module: Any) -> list[Tensor]:
    scores, vectors, losses = module._embed(Batch.from_data_list([graph(), graph()]))
    weights = {"link_loss": module.hparams["link_weight"], "entropy_loss": module.hparams["entropy_weight"]}
    return [scores, vectors, *(value * weights[name] for name, value in losses.items())]


def of_links(module: Any) -> list[Tensor]:
    return [t for t in module.network.encode(graph().x, EDGES) if t is not None]


def of_sensors(module: Any) -> list[Tensor]:
    if hasattr(module.network, "set_graph"):
        module.network.set_graph(torch.rand(5, 5, generator=torch.Generator().manual_seed(1)))
    return [module.network(torch.ones(2, 12, 5, module.channels))]


def of_drawn_graphs(module: Any) -> list[Tensor]:
    return [module.sample(6)[0]]


def of_images(module: Any) -> list[Tensor]:
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.ones(2, 1, 8, 8), torch.tensor([100, 700])
    constants = [module.hparams[k] for k in ("min_snr_gamma", "p2_gamma", "p2_k")]
    weight = timestep_weight(module.schedule, t, module.loss_weight, *constants)
    return [module.network(x, t, torch.tensor([0, 1])), weight]


def of_words(module: Any) -> list[Tensor]:
    module.vocabulary.fill(["ab", "cd"], "abcd")
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    batch, tags = module.encode([["ab", "cdx", "ab"], ["d"]]), torch.tensor([[0, 1, 2], [1, 0, 0]])
    module.eval()
    return [module.network.loss(batch, tags), module.network.decode(batch).probabilities]


def nothing(module: Any) -> list[Tensor]:
    return []


# class -> variants, small settings, another value of each option, what it computes, and options that act in a
# run alone (loss, optimiser, draws): of these only the refusals are looked at

NODE_OPTIONS = {
    "hidden": 24, "layers": 3, "dropout": 0.3, "input_linear": True, "heads": 4, "act": "tanh",
    "norm": "batch", "jk": "cat", "K": 4, "alpha": 0.3, "theta": 0.9, "aggr": "max", "eps": 0.4,
    "train_eps": True, "kernels": 5, "lambda_max": "graph", "out_heads": 3, "attention_dropout": 0.1,
    "residual": True, "towers": 2, "share_weights": False, "select": "loss",
}  # fmt: skip
DIT = {"depth": 2, "width": 24, "heads": 2}
UNET = {
    "unet_channels": 32, "unet_multipliers": (1, 2), "unet_res_blocks": 1, "unet_attention": (4,),
    "unet_head_channels": 32,
}  # fmt: skip
TABLE: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], Any, set[str]]] = {
    "NodeClassifier": (
        [{"arch": a} for a in (*NODE_ARCHS, "dgi")],
        {"features": 5, "num_classes": 3, "hidden": 16},
        NODE_OPTIONS,
        of_nodes,
        {"select"},
    ),
    "GraphClassifier": (
        [{"arch": a, **({"hidden": 4} if a == "ggnn" else {})} for a in GRAPH_ARCHS if a != "none"]
        + [{"arch": "gcn", "readout": r} for r in READOUTS],
        {"num_features": 5, "num_classes": 3},
        {"hidden": 16, "num_layers": 3, "node_dropout": 0.4, "dropout": 0.2, "head": 5, "pool_nodes": 14,
         "pool_ratio": 0.3, "pool_levels": 2, "link_weight": 2.0, "entropy_weight": 2.0},
        of_graphs,
        {"pool_ratio"},  # of sort it only counts where pool_nodes is null
    ),
    "LinkPredictor": (
        [{"model": m} for m in ("gae", "vgae", "arga", "arvga")],
        {"features": 5},
        {"hidden": 8, "embedding": 4, "num_layers": 3, "dropout": 0.5, "decoder": "mlp", "kl_weight": 2.0,
         "discriminator_hidden": (8,), "discriminator_steps": 2, "K": 4},
        of_links,
        {"kl_weight", "discriminator_steps"},
    ),
    "SpatioTemporalForecaster": (
        [{"arch": a} for a in ("stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet", "fclstm")],
        {"num_nodes": 5},
        {"hidden": 8, "layers": 1, "dropout": 0.1, "cheb_terms": 2, "diffusion_steps": 1, "embedding": 4,
         "teaching_decay": 5.0, "unused_aligns": True, "in_channels": 3},
        of_sensors,
        {"teaching_decay"},
    ),
    "GraphGenerator": (
        [{"arch": a} for a in ("graphrnn_s", "graphrnn", "graphvae")],
        {"max_nodes": 8, "bandwidth": 5},
        {"hidden": 16, "embedding": 8, "num_layers": 1, "edge_hidden": 8, "edge_embedding": 4, "latent": 7,
         "matching": "pooling", "kl_weight": 0.1},
        of_drawn_graphs,
        {"matching", "kl_weight"},
    ),
    "GAugO": (
        [{"backbone": b} for b in ("gcn", "gsage", "gat", "jknet")],
        {"features": 5, "num_classes": 3},
        {"layers": 4, "batch_norm": True, "candidates": 3, "negatives": 2.0, "batch_cap": 100},
        nothing,
        {"candidates", "negatives", "batch_cap"},
    ),
    "GAugM": (
        [{"predictor": p} for p in ("vgae", "gae", "file")],
        {"features": 5, "num_classes": 3},
        {"kl_weight": 2.0, "predictor_hidden": 8, "predictor_embedding": 4, "predictor_lr": 0.1,
         "sampled_loss": True, "predictor_l1": False},
        nothing,
        {"kl_weight", "predictor_lr", "sampled_loss", "predictor_l1"},
    ),
    "ActiveNER": (
        [{}, {"char_encoder": "lstm"}, {"char_encoder": "none"}, {"word_encoder": "lstm"},
         {"tag_decoder": "crf"}, {"tag_decoder": "linear"}, {"acquisition": "bald"},
         {"acquisition": "submod"}],
        {"num_words": 2, "num_characters": 4, "tags": ["O", "B-A", "I-A"]},
        {"char_dim": 8, "char_filters": 7, "char_kernel": 3, "char_layers": 2, "char_residual": False,
         "char_hidden": 5, "word_dim": 9, "word_filters": 11, "word_kernel": 5, "word_layers": 1,
         "word_residual": True, "word_hidden": 6, "decoder_hidden": 10, "feedback": "greedy", "beam": 3,
         "mc_passes": 7, "mc_repeats": "decoder", "candidates": 2, "max_similarity": 0.9, "backbone": "x"},
        of_words,
        {"beam", "mc_passes", "mc_repeats", "candidates", "max_similarity"},
    ),
    "LDS": (
        [{"num_candidates": n} for n in (None, 20)],
        {"num_nodes": 9},
        {"random_candidates": 5},
        nothing,
        {"random_candidates"},
    ),
    "FeatureBaseline": (
        [{"method": m} for m in ("logreg", "ffnn", "random_forest")],
        {},
        {"hidden": 5, "trees": 7},
        nothing,
        {"hidden", "trees"},
    ),
    "DTR": (
        [{**DIT, **v} for v in (
            {}, {"routing": "random"}, {"routing": "none"}, {"loss_weight": "min_snr"}, {"loss_weight": "p2"},
            {"loss_weight": "uw"}, {"sampler": "dpm++"})] + [{"backbone": "unet", **UNET}],
        {"input_size": 8, "in_channels": 1, "num_classes": 10, "sampling_steps": 5},
        {"size": "S", "patch_size": 4, "width": 12, "depth": 1, "heads": 3, "unet_channels": 64,
         "unet_multipliers": (1,), "unet_res_blocks": 2, "unet_attention": (8, 4), "unet_head_channels": 16,
         "unet_groups": 16, "unet_dropout": 0.5, "alpha": 2.0, "beta": 0.5, "routing_seed": 3,
         "min_snr_gamma": 3.0, "p2_gamma": 0.5, "p2_k": 2.0, "uw_intervals": 4, "uw_lr": 0.1,
         "spacing": "ddim"},
        of_images,
        {"size", "uw_lr", "spacing", "unet_attention"},  # size has its numbers replaced here
    ),
}  # fmt: skip


def state(name: str, settings: dict[str, Any], compute: Any) -> list[Tensor]:
    torch.manual_seed(0)
    module = getattr(zoo, name)(**settings)
    shapes = torch.tensor([p.numel() for p in module.parameters()] + [len(list(module.parameters()))])
    torch.manual_seed(1)
    return [shapes, *compute(module)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


CASES = [(name, variant) for name, (variants, *_) in TABLE.items() for variant in variants]


NAMES = ["-".join(map(str, (name, *variant.values()))) for name, variant in CASES]


@pytest.mark.parametrize(("name", "variant"), CASES, ids=NAMES)
def test_every_option_changes_something_or_is_refused(name: str, variant: dict[str, Any]) -> None:
    _, small, others, compute, elsewhere = TABLE[name]
    settings = {**small, **variant}
    if name == "GraphClassifier" and variant.get("readout") in ("sort", "diffpool"):
        settings["pool_nodes"] = 12
    plain, idle = state(name, settings, compute), []
    for option, value in others.items():
        try:
            changed = state(name, settings | {option: value}, compute)
        except ValueError as error:
            if not re.fullmatch(r".*(does not use|has no option|refuses).*", str(error)):
                raise
            continue
        if option not in elsewhere and same(plain, changed):
            idle.append(option)
    assert idle == []


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "SpatioTemporalForecaster",
            {"arch": "dcrnn", "dropout": 0.1},
            "dropout is 0.1, which arch: dcrnn",
        ),
        (
            "SpatioTemporalForecaster",
            {"arch": "gwnet", "layers": 3},
            "set model.init_args.arch to dcrnn",
        ),
        ("GAugO", {"backbone": "gat", "layers": 3}, "layers is 3, which backbone: gat does not use"),
        ("GraphGenerator", {"arch": "graphvae", "hidden": 64}, "leave it out \\(its default is 128\\)"),
        ("LDS", {"random_candidates": 4}, "random_candidates is 4, which num_candidates: null does not use"),
        ("DTR", {"backbone": "unet", "depth": 3}, "depth is 3, which backbone: unet does not use"),
        ("NodeClassifier", {"heads": 4}, "gcn has no option heads \\(given: 4\\); gat, gatv2 have it"),
        (
            "NodeClassifier",
            {"arch": "sgc", "hidden": 4},
            "hidden is 4, which input_linear: false",
        ),
        ("ActiveNER", {"tag_decoder": "crf", "beam": 4}, "beam is 4, which tag_decoder: crf does not use"),
        ("GAugM", {"predictor": "gae", "kl_weight": 0.5}, "kl_weight is 0.5, which predictor: gae does not"),
        ("LinkPredictor", {"model": "gae", "kl_weight": 0.5}, "set model.init_args.model to vgae or arvga"),
    ],
)
def test_the_line_names_option_variant_and_way_out(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(zoo, name)(**settings)


def test_defaults_are_never_refused() -> None:
    """Checkpoints and configs hold the defaults of all variants; ``heads: 8`` was once stored for all."""
    zoo.NodeClassifier(arch="gcn", heads=8)
    zoo.SpatioTemporalForecaster(arch="gwnet", num_nodes=3, layers=2, cheb_terms=3)
    zoo.GraphGenerator(arch="graphvae", max_nodes=5, bandwidth=3, hidden=128)
    zoo.LinkPredictor(model="gae", discriminator_hidden=[16, 64])
