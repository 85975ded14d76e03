"""Graph neural networks by output level, after the survey of Wu et al. (2021): a folder per task."""

from __future__ import annotations

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Graph survey", page="gnn")

_KARATE = {"class_path": "datamodules.KarateClub"}

METHODS = (
    Method(
        "NodeClassifier",
        "node.module",
        page="gnn_node",
        title="Node classification",
        about="The node level of the GNN survey (Wu et al., TNNLS 2021): GCN, ChebNet, GraphSAGE, GAT, "
        "GATv2, GIN, SGC, APPNP, MoNet, GCNII, PNA, GGNN, DGI by one line",
        small=tuple(
            {"features": 34, "num_classes": 4, "arch": a, **extra}
            for a, extra in (
                ("gcn", {}),
                ("gat", {"hidden": 8, "heads": 4}),
                ("pna", {}),
                ("dgi", {"layers": 1}),
            )
        ),
        data=_KARATE,
        weights="node.weights",
    ),
    Method(
        "GraphClassifier",
        "graph.module",
        page="gnn_graph",
        title="Graph classification",
        about="Graph level of the GNN survey (Wu et al., 2021): 17 node architectures x 7 readouts, GIN, "
        "DGCNN, DiffPool, the fair protocol (Errica et al., ICLR 2020)",
        small=tuple(
            {"hidden": 8, "num_layers": 2, **extra}
            for extra in (
                {"layers": "sum", "norm": "batch"},
                {"arch": "dgcnn", "readout": "sort", "pool_nodes": 12, "head": 8},
                {"arch": "sage", "readout": "diffpool", "pool_nodes": 4},
                {"arch": "ecc", "readout": "sagpool"},
            )
        ),
        data={"class_path": "datamodules.SyntheticGraphs", "init_args": {"graphs": 80, "batch_size": 8}},
    ),
    Method(
        "LinkPredictor",
        "link.module",
        page="gnn_link",
        title="Link prediction",
        about="Graph auto-encoders GAE, VGAE (Kipf & Welling 2016), ARGA, ARVGA (Pan et al., IJCAI 2018) "
        "over 13 architectures; the edge level of Wu et al.'s survey",
        small=tuple(
            {"features": 34, "model": m, **extra}
            for m, extra in (("vgae", {}), ("arvga", {"decoder": "mlp"}), ("adamic_adar", {}))
        ),
        data={"class_path": "datamodules.LinkSplit", "init_args": {"source": _KARATE}},
    ),
    Method(
        "GraphGenerator",
        "generation.module",
        page="gnn_generation",
        title="Graph generation",
        about="Graph generation of the survey of Wu et al. (2021): GraphRNN (You et al., ICML 2018), "
        "GraphRNN-S, GraphVAE; Erdos-Renyi and Barabasi-Albert baselines",
        small=tuple(
            {"arch": a, "max_nodes": 20, "bandwidth": 18, **extra}
            for a, extra in (
                ("graphrnn_s", {"hidden": 8, "num_layers": 2}),
                ("graphrnn", {"hidden": 8, "num_layers": 2}),
                ("graphvae", {"matching": "pooling"}),
                ("er", {}),
                ("ba", {}),
            )
        ),
        data={"class_path": "datamodules.GraphSet"},
    ),
    Method(
        "SpatioTemporalForecaster",
        "traffic.module",
        page="gnn_traffic",
        title="Traffic forecasting",
        about="The spatial-temporal level of the GNN survey: STGCN (Yu et al., IJCAI 2018), DCRNN (Li et "
        "al., ICLR 2018), Graph WaveNet (Wu et al., IJCAI 2019), FC-LSTM, historical average by one line",
        small=tuple(
            {"arch": a, "num_nodes": 5, "hidden": 4, "period": 100}
            for a in ("stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet", "fclstm", "ha", "last")
        ),
        data={"class_path": "datamodules.SensorDiffusion", "init_args": {"sensors": 5, "steps": 200}},
        weights="traffic.weights",
        converts="STGCN's PyTorch port converts both ways",
        convert="forecast",
    ),
)

__getattr__ = lazy(__name__, METHODS)
