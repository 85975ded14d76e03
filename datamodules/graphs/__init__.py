"""Graphs: one whole graph, sets of graphs, links, sampled neighbourhoods."""

CLASSES = {
    "BlockModel": "embedded",
    "DigitsGraph": "digits_graph",
    "GAugGraph": "gaug",
    "GraphSet": "graph_sets",
    "KarateClub": "embedded",
    "KNNGraph": "knn_graph",
    "LinkSplit": "links",
    "NeighborSampling": "neighbors",
    "PPI": "graphsage",
    "Planetoid": "planetoid",
    "Reddit": "graphsage",
    "SyntheticGraphs": "synthetic_graphs",
    "TUGraphSet": "graph_sets",
    "TUGraphs": "tu_graphs",
}
"""Public data modules -> the module of this package that defines them."""
