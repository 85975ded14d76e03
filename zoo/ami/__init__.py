"""AMI: adversarial mutual information for text generation (Pan et al., ICML 2020)."""

from __future__ import annotations

from zoo.declaration import Method, lazy

_TINY = {"variant": "gru", "vocab_size": 58, "width": 8, "samples": 2, "max_length": 6}

METHODS = (
    Method(
        "AMI",
        page="ami",
        title="AMI",
        about="Adversarial Mutual Information for Text Generation (Pan et al., ICML 2020), dialogue and "
        "translation",
        small=(
            {
                **_TINY,
                "forward_batches": 1,
                "backward_batches": 1,
                "noise_batches": 1,
                "adversarial_every": 1,
            },
            {**_TINY, "variant": "rnn", "layers": 1, "objective": "vim", "noise": "gaussian"},
            {**_TINY, "variant": "transformer_tiny", "objective": "mle", "noise": "none", "judge": False},
        ),
        data={"class_path": "datamodules.DullReplies", "init_args": {"batch_size": 4, "train_pairs": 64}},
        weights="weights",
        converts="the released code's checkpoints (state dicts) convert both ways",
    ),
)

__getattr__ = lazy(__name__, METHODS)
