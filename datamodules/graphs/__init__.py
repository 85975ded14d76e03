"""Graphs: one whole graph, sets of graphs, links, sampled neighbourhoods."""

CLASSES = {
    "BlockModel": "block_model",
    "DigitsGraph": "digits_graph",
    "GAugGraph": "gaug",
    "GraphSet": "graph_sets",
    "KarateClub": "karate",
    "KNNGraph": "knn_graph",
    "LinkSplit": "links",
    "NeighborSampling": "neighbors",
    "PPI": "ppi",
    "Planetoid": "planetoid",
    "Reddit": "reddit",
    "SyntheticGraphs": "synthetic_graphs",
    "TUGraphSet": "graph_sets",
    "TUGraphs": "tu_graphs",
}
"""Public data modules -> the module of this package that defines them."""
