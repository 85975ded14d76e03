"""Checkpoints of the released code in a folder as it writes them, both ways, and models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

import cli
import zoo
from zoo.ami.pretrained import pretrained_pair
from zoo.ami.weights import names, read
from zoo.nn.decoding import beam_search, generate

SMALL = {"width": 8, "layers": 2, "heads": 2, "hidden": 16}


def official_names(state: dict[str, Any], variant: str, layers: int) -> dict[str, Any]:
    back = {ours: theirs for theirs, ours in names(variant, layers).items()}
    return {back[k]: v for k, v in state.items()}


def test_names_are_opennmts() -> None:
    found = names("transformer_base", 6)
    assert found["encoder.transformer.5.layer_norm.weight"] == "encoder.5.norm.weight"
    assert found["encoder.transformer.0.feed_forward.layer_norm.bias"] == "encoder.0.feed_forward.norm.bias"
    assert found["encoder.transformer.0.self_attn.final_linear.weight"] == "encoder.0.attention.output.weight"
    assert (
        found["decoder.transformer_layers.3.context_attn.linear_keys.bias"]
        == "decoder.3.memory_attention.key.bias"
    )
    assert found["decoder.transformer_layers.3.layer_norm_2.weight"] == "decoder.3.memory_norm.weight"
    assert names("rnn", 2)["decoder.rnn.layers.1.weight_ih"] == "decoder.1.weight_ih"
    for variant, sizes in (("transformer_base", SMALL), ("rnn", {"width": 8})):
        module = zoo.AMI(variant=variant, vocab_size=20, **sizes)
        assert {*names(variant, 2).values()} == {*module.network.forward_network.state_dict()}


@pytest.mark.parametrize("variant", ["transformer_base", "rnn"])
def test_official_folders_convert_both_ways(variant: str, tmp_path: Path) -> None:
    sizes = SMALL if variant != "rnn" else {"width": 8, "layers": 1}
    module = zoo.AMI(variant=variant, vocab_size=20, noise="learned", **sizes)
    ours, folder = tmp_path / "ours.safetensors", tmp_path / "official"
    zoo.save(module, ours)
    assert cli.main(["convert", str(ours), "--to", "official", "--out", str(folder)]) == 0
    position = {
        "encoder.embeddings.make_embedding.pe.pe": torch.zeros(50, 1, 8)
    }  # a buffer of the released code
    path = folder / "g_model" / "md_step_0.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "model": {**content["model"], **position}}, folder / "g_model" / "md_step_7.pt")
    given = ["--set", "heads=2"] if variant != "rnn" else []
    back = tmp_path / "back.safetensors"
    assert cli.main(["convert", str(folder), "--method", "ami", "--out", str(back), *given]) == 0
    again = zoo.load(back)
    for key, value in module.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key
    source, prefix = tensor([[4, 5, 6]]), tensor([[2, 7]])
    module.eval()
    assert torch.equal(module.network(source, prefix), again.network(source, prefix))


def test_what_is_no_official_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"g_model/md_step_N\.pt"):
        read(tmp_path, {})
    (tmp_path / "g_model").mkdir()
    (tmp_path / "m_model").mkdir()
    for room in ("g_model", "m_model"):
        torch.save({"model": {}}, tmp_path / room / "md_step_1.pt")
    with pytest.raises(ValueError, match="no 'model' and 'generator'"):
        read(tmp_path, {})


@pytest.fixture(params=["bart", "marian"])
def folders(request: Any, tmp_path: Path) -> list[str]:
    from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel

    sizes = {"vocab_size": 30, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
             "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
             "max_position_embeddings": 40, "pad_token_id": 1, "eos_token_id": 3, "dropout": 0.0}  # fmt: skip
    found = []
    for name in ("forward", "backward"):
        model: Any
        if request.param == "bart":
            model = BartForConditionalGeneration(
                BartConfig(**sizes, bos_token_id=2, decoder_start_token_id=3)
            )
        else:
            model = MarianMTModel(MarianConfig(**sizes, decoder_start_token_id=1, scale_embedding=True))
        model.save_pretrained(tmp_path / name)
        found.append(str(tmp_path / name))
    return found


def test_models_of_transformers_decode_as_they_do_there(folders: list[str]) -> None:
    network, _, architecture = pretrained_pair(None, *folders, 30, 1)
    network = network.eval()
    source = tensor([[4, 5, 6], [7, 1, 1]])
    encoded = network.encode(source)
    front, behind = network.before, network.after
    own = tensor([[*front, 7, *behind]])
    start = tensor([[*network.start, 9, 8]])
    wanted = network.model(input_ids=own, decoder_input_ids=start).logits[:, len(network.start) - 1 :]
    prefix = tensor([[2, 9, 8], [2, 9, 8]])
    found = network.decode(prefix, encoded)
    assert torch.allclose(found[1:], wanted, atol=1e-5)
    state = network.begin(encoded)
    for place in range(3):
        logits, state = network.step(prefix[:, place], state)
        assert torch.allclose(logits, found[:, place], atol=1e-5)
    greedy = generate(network, encoded, 6, 2, 3, 1)
    one, _ = beam_search(network, encoded, 1, 6, 2, 3, 1)
    assert torch.equal(greedy, one[:, 0])
    again, _, _ = pretrained_pair(architecture, None, None, 30, 1)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    extra = torch.zeros(2, 3, 16, requires_grad=True)
    network.decode(prefix, network.encode(source, extra)).sum().backward()
    assert extra.grad is not None
    assert extra.grad[0].abs().sum() > 0


def test_a_pair_of_transformers_is_saved_and_loaded_without_its_folders(
    folders: list[str], tmp_path: Path
) -> None:
    module = zoo.AMI(
        variant="hf", vocab_size=30, pretrained_forward=folders[0], pretrained_backward=folders[1]
    )
    path = zoo.save(module, tmp_path / "pair.safetensors")
    for folder in folders:
        Path(folder).rename(f"{folder}-gone")
    again = zoo.load(path)
    source, prefix = tensor([[4, 5, 6]]), tensor([[2, 7]])
    assert torch.equal(module.eval().network(source, prefix), again.network(source, prefix))
    with pytest.raises(ValueError, match="vocab_size is 31, but the pretrained model has 30"):
        zoo.AMI(
            variant="hf",
            vocab_size=31,
            pretrained_forward=f"{folders[0]}-gone",
            pretrained_backward=f"{folders[1]}-gone",
        )
