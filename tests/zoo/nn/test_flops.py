"""FLOPs against counts by hand; what has no formula is named, never 0."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import prune
from torch.utils import flop_counter

from zoo.nn.flops import FlopCounter, UncountedFlops, count_flops


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(before)


def dense(function: Callable[..., Any], *args: Any) -> int:
    return count_flops(function, *args).dense


def backward_of(module: nn.Module, x: Tensor) -> Callable[[], None]:
    def run() -> None:
        out = module(x)
        (out[0] if isinstance(out, tuple) else out).sum().backward()

    return run


MLP = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
TOKENS = torch.randn(2, 10, 16)


def test_layers_count_as_by_hand() -> None:
    linear, rows = nn.Linear(128, 64), torch.randn(32, 128)
    assert dense(linear, rows) == 524_288
    assert dense(backward_of(linear, rows)) == 1_048_576  # to the parameters alone
    assert dense(backward_of(linear, rows.clone().requires_grad_())) == 1_572_864
    assert dense(nn.Conv2d(16, 32, 3, padding=1), torch.randn(4, 16, 28, 28)) == 28_901_376
    assert dense(nn.Conv2d(32, 32, 3, padding=1, groups=32), torch.randn(1, 32, 28, 28)) == 451_584
    assert dense(MLP, torch.randn(1, 784)) == 1_337_344
    with torch.inference_mode():
        assert dense(MLP, torch.randn(3, 784)) == 3 * 1_337_344


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_the_cpu_counts_as_the_mathematical_one(causal: bool) -> None:
    q = torch.randn(2, 4, 64, 32, requires_grad=True)

    def forward() -> Tensor:
        return scaled_dot_product_attention(q, q, q, is_causal=causal)

    fused = count_flops(forward)
    assert fused.dense == 4_194_304
    assert any("for_cpu" in name for name in fused.by_operation)  # the kernel that torch counts as 0
    backward = dense(lambda: forward().sum().backward())
    with sdpa_kernel(SDPBackend.MATH):
        assert dense(forward) == 4_194_304
        assert dense(lambda: forward().sum().backward()) == backward == 3 * 4_194_304


def test_nothing_counts_twice_when_torch_learns_a_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    names = (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_transformer_encoder_layer_fwd",
        "mkldnn_rnn_layer",
    )
    lstm = nn.LSTM(16, 32, batch_first=True)
    with torch.no_grad():
        before = dense(encoder, TOKENS), dense(lstm, TOKENS)
        for name in names:
            monkeypatch.setitem(
                flop_counter.flop_registry, getattr(torch.ops.aten, name), lambda *_, **__: 10**9
            )
        assert (dense(encoder, TOKENS), dense(lstm, TOKENS)) == before


def test_recurrent_layers() -> None:
    lstm = nn.LSTM(16, 32, batch_first=True)
    assert dense(lstm, TOKENS) == 245_760 == 2 * 2 * 10 * 4 * 32 * (16 + 32)
    assert dense(backward_of(lstm, TOKENS)) == 3 * 245_760
    assert dense(nn.GRU(16, 32, batch_first=True), TOKENS) == 245_760 * 3 // 4
    assert dense(nn.RNN(16, 32, batch_first=True), TOKENS) == 245_760 // 4
    two = nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True)
    assert dense(two, TOKENS) == 2 * 20 * 2 * 32 * ((16 + 8) + (16 + 8))


def test_the_fused_path_of_eval_counts_as_by_hand() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    layer = 2 * 20 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 4 * 16 * 2 * 100
    alone = 2 * 20 * (16 * 48 + 16 * 16) + 4 * 16 * 200
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[1, 7:] = True
    with torch.no_grad():
        assert dense(encoder, TOKENS) == 2 * layer  # with the fast path off
        assert dense(attention, TOKENS, TOKENS, TOKENS) == alone
        assert torch.backends.mha.get_fastpath_enabled()
        with FlopCounter() as counter:  # and as it is
            encoder(TOKENS)
        assert counter.result().by_operation == {"_transformer_encoder_layer_fwd": 2 * layer}
        with FlopCounter() as counter:
            attention(TOKENS, TOKENS, TOKENS)
        assert counter.result().by_operation == {"_native_multi_head_attention": alone}
        with FlopCounter() as counter:  # 10 and 7 tokens, nested
            encoder(TOKENS, src_key_padding_mask=padding)
        assert counter.result().dense == 2 * (2 * 17 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 4 * 16 * 149)


def test_quantised_layers_count_as_their_float_twins() -> None:
    twin = nn.Sequential(nn.Linear(16, 8), nn.LSTM(8, 4, 2, bidirectional=True))
    small = torch.ao.quantization.quantize_dynamic(twin, dtype=torch.qint8)
    assert "quantized" in type(small[0]).__module__
    assert dense(small, TOKENS) == dense(twin, TOKENS) > 0


def test_sparse_matrices_count_their_entries() -> None:
    sparse, y = torch.eye(40).to_sparse(), torch.randn(40, 3, requires_grad=True)
    assert dense(lambda: sparse @ y) == 2 * 40 * 3
    assert dense(lambda: torch.sparse.mm(sparse, y).sum().backward()) == 2 * 2 * 40 * 3
    assert dense(lambda: sparse.to_sparse_csr() @ y) == 2 * 40 * 3
    assert dense(nn.EmbeddingBag(10, 4, mode="sum"), torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2])) == 16


def test_masked_weights_lower_the_effective_flops_alone() -> None:
    linear = nn.Linear(100, 50)
    prune.l1_unstructured(linear, "weight", 0.5)
    found = count_flops(linear, torch.randn(1, 100))
    assert (found.dense, found.effective) == (10_000, 5_000)


class _Elsewhere(nn.Module):
    """Computes where nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class _Table(_Elsewhere):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_what_cannot_be_counted_is_named() -> None:
    x = torch.randn(3, 3)
    with pytest.raises(UncountedFlops, match="aten::_linalg_svd"):
        count_flops(torch.linalg.svd, x)
    with pytest.raises(UncountedFlops, match="module _Elsewhere with parameters, which counted 0"):
        count_flops(nn.Sequential(nn.Linear(3, 3), _Elsewhere()), x)
    assert dense(_Table(), x) == 0  # a sum has none

    @torch.library.custom_op("zoo_test_flops::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return x * 2

    with FlopCounter() as counter:
        double(x)
        x @ x
    assert counter.why == "no FLOPs are known of zoo_test_flops::double"
    assert counter.dense == 54  # of the rest


def test_counting_draws_nothing_and_changes_no_bit() -> None:
    x, results = torch.randn(8, 784), []
    for counts in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(784, 32), nn.Dropout(0.5), nn.LSTM(32, 8, batch_first=True))
        optimiser = torch.optim.Adam(net.parameters())
        counter = FlopCounter()
        if counts:
            counter.__enter__()
        net(x)[0].sum().backward()
        optimiser.step()
        if counts:
            counter.__exit__(None, None, None)
            assert counter.result().dense > 0
        results.append([*(p.detach().clone() for p in net.parameters()), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
