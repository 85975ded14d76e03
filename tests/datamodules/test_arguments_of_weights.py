"""Each argument of a data module is what a network depends on, what decides the split, or neither."""

from __future__ import annotations

import inspect
import re

import pytest

import datamodules

_NEITHER = """
    batch_size eval_batch_size num_workers predict_batch_size shard_size steps_per_epoch items_per_epoch
    root cache cache_dir download codes header skip_unpaired drop_last layout kwargs
    test_passes predict_samples predict_items predict_files predict test_crops evaluate_on samples reference
    flip rotate crop random_crops augment colour_jitter time_masks time_width frequency_masks frequency_width
    async_sampling early_stopping order bfs_draws stages input_size fine continuous views neighbors modalities
    multi_label edge_probabilities val_root train val test upright mask_values num_classes latent_norm
    budget rounds seed_updates round_updates passes window oracle noise labels accept_drafts spaces embeddings
    document_field summary_field id_field yhat_field tokenizer vocab_size max_target
    latent_multiplier images
    tokenizer vocab_size model batch_tokens most_evaluated val_pairs test_pairs
    like_lengths stride pack prompt_tokens shots
    file val_file test_file predict_file energy_key forces_key file_unit rotate_train rotate_test
    val_items test_items table delimiter unlabelled distractors held_dialogues
    triples queries
    smiles save_splits predict_file
    entities mask_seed sequence
"""
NEITHER = frozenset(re.findall(r"\w+", _NEITHER))
"""What neither changes who is held out nor what the network takes: files, batches, augmentation, sizes that
the module compares itself; ``train``, ``val``, ``test`` of Saliency are names of folders."""


def arguments(cls: type) -> set[str]:
    found: set[str] = set()
    for parent in cls.__mro__:
        if parent.__module__.startswith("datamodules") and "__init__" in vars(parent):
            names = list(inspect.signature(vars(parent)["__init__"]).parameters)[1:]
            found |= set(names)
            if "kwargs" not in names:
                break
    return found


@pytest.mark.parametrize("name", datamodules.__all__)
def test_each_argument_is_of_the_network_of_the_split_or_of_neither(name: str) -> None:
    cls = getattr(datamodules, name)
    network = {names.split()[0] for names in getattr(cls, "of_weights", ())}
    split = set(getattr(cls, "split_of_weights", ()))
    given = arguments(cls)
    assert network | split <= given
    assert given - network - split - NEITHER == set()
