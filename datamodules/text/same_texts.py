"""A training that is resumed has the texts that it was begun with, and the vocabulary of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from datamodules.loading.loaders import SplitModule
from datamodules.text.pool import text_digest


class SameTexts(SplitModule):
    """A data module whose checkpoints keep a digest of :meth:`learned`.

    Attributes:
        items_are: what is learned, in words.
    """

    items_are: ClassVar[str] = "texts"
    _digest = ""

    def learned(self) -> Iterable[Sequence[str]]:
        """The texts of each training item, in the order of the set."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        if not hasattr(self, "train_set"):
            return {}
        self._digest = self._digest or text_digest(self.learned())
        return {"texts": self._digest}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Compare the texts of a training with those that it was begun with; a test may have others.

        Raises:
            ValueError: for other texts.
        """
        known = state_dict.get("texts")  # checkpoints of before have none
        if known is None or self.trainer is None or self.trainer.state.fn != "fit":
            return
        if known != self.state_dict().get("texts"):
            raise ValueError(
                f"the checkpoint was trained on other {self.items_are} than the data have, or in another "
                "order: resume with the data of the run, or start anew from its --weights"
            )

    def _of_weights(self) -> str:
        """The vocabulary of the trainer's module as a document, "" where it has none."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        return getattr(getattr(module, "vocabulary", None), "text", "")
