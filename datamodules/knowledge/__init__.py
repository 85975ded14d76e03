"""Knowledge graphs: triples of head, relation and tail."""

CLASSES = {"KnowledgeGraph": "graph"}
"""Public data modules -> the module of this package that defines them."""
