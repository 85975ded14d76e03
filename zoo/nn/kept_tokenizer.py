"""The tokenizer among a network's weights, for a network that is used without its data."""

from __future__ import annotations

import json
from typing import Any

from zoo.nn.kept_text import KeptText


def tokenizer_of(kept: KeptText) -> Any:
    """The fast tokenizer of transformers that the document is of.

    The document has the library's own JSON under ``tokenizer`` and the special tokens by their ``roles``.

    Raises:
        ValueError: for weights without one, or with one that cannot be read.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = kept.value
    if content is None:
        raise ValueError("these weights have no tokenizer yet: they take that of their training data")
    try:
        roles = {f"{role}_token": token for role, token in content["roles"].items()}
        made = Tokenizer.from_str(json.dumps(content["tokenizer"]))
        return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **roles)
    except Exception as error:  # the library's reader raises Exception itself
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"the tokenizer among the weights cannot be read: {text}") from None
