"""The shared blocks obey the laws their names promise."""

import pytest
import torch

from scene4d.layers import (
    FEW_KEYS,
    MLP,
    Attention,
    Block,
    RMSNorm,
    Rotary,
    attend,
    causal_mask,
    fourier_features,
    num_parameters,
    sinusoidal_embedding,
    turn_pairs,
)


def test_rotary_scores_depend_on_differences_of_position_only():
    torch.manual_seed(0)
    rotary = Rotary(24, wavelengths=((0.05, 4.0),) * 3).double()
    q, k = torch.randn(2, 1, 5, 24).double()
    at, shift = torch.randn(5, 3).double(), torch.tensor([3.0, -1.0, 0.7]).double()
    scores = lambda x: turn_pairs(q, rotary(x)) @ turn_pairs(k, rotary(x)).transpose(-1, -2)
    assert torch.allclose(scores(at), scores(at + shift), atol=1e-9)
    assert not torch.allclose(scores(at), scores(at * 1.5), atol=1e-3)


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    layer = Attention(16, num_heads=2, context_dim=6).double()
    x, context = torch.randn(3, 4, 16).double(), torch.randn(3, 7, 6).double()
    mask = torch.rand(3, 4, 7) > 0.4
    mask[..., 0] = True
    q = layer.query_norm(layer.query(x).view(3, 4, 2, 8))
    k, v = layer.key_value(context).view(3, 7, 4, 8).split(2, 2)
    logits = torch.einsum("blhd,bshd->bhls", q, layer.key_norm(k)) / 8**0.5
    weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    expected = layer.out(torch.einsum("bhls,bshd->blhd", weights, v).flatten(-2))
    assert torch.allclose(layer(x, context, mask=mask), expected, atol=1e-10)


def test_masked_entries_change_nothing_and_empty_rows_are_finite():
    torch.manual_seed(0)
    layer = Attention(16, num_heads=2)
    x = torch.randn(2, 6, 16)
    mask = torch.ones(2, 6, 6, dtype=torch.bool)
    mask[..., 4:] = False
    changed = x.clone()
    changed[:, 4:] = 100.0
    assert torch.equal(layer(x, mask=mask)[:, :4], layer(changed, mask=mask)[:, :4])
    mask[:] = False
    out = layer(x, mask=mask)
    assert torch.allclose(out, layer.out.bias.expand_as(out))
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_leading_axes_are_batch_axes():
    torch.manual_seed(0)
    block = Block(16, num_heads=2, condition_dim=5)
    torch.nn.init.normal_(block.modulation.linear.weight)
    x, condition = torch.randn(2, 3, 4, 16), torch.randn(2, 3, 1, 5)
    table = Rotary(8, wavelengths=((0.1, 2.0),) * 3)(torch.randn(2, 3, 4, 3))
    whole = block(x, condition, rotary=table)
    assert torch.allclose(whole[1, 2], block(x[1, 2], condition[1, 2], rotary=table[1, 2]), atol=1e-6)


def test_modulated_block_starts_as_the_identity():
    block = Block(16, num_heads=2, condition_dim=5)
    x = torch.randn(2, 4, 16)
    assert torch.equal(block(x, torch.randn(2, 1, 5)), x)


def test_causal_attention_never_looks_ahead():
    torch.manual_seed(0)
    layer, x = Attention(16, num_heads=4), torch.randn(1, 6, 16)
    later = x.clone()
    later[:, 4:] += 1
    mask = causal_mask(6)
    assert torch.equal(layer(x, mask=mask)[:, :4], layer(later, mask=mask)[:, :4])


@pytest.mark.parametrize("few", [True, False])
def test_attention_in_half_the_bits_is_attention(few):
    """Against float64, with both kinds of mask, on both sides of the number of keys at which the method changes."""
    torch.manual_seed(0)
    keys = FEW_KEYS if few else FEW_KEYS + 1
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, keys, keys))
    may = torch.rand(5, keys) > 0.3
    for mask in (None, may, torch.where(may, 0.0, -torch.inf), torch.randn(5, keys)):
        exact = attend(q, k=k, v=v, mask=mask)
        half = attend(q.bfloat16(), k=k.bfloat16(), v=v.bfloat16(), mask=mask)
        assert half.dtype == torch.bfloat16
        assert (half.double() - exact).abs().max() < 0.03
        seen = torch.zeros(5, keys) if mask is None else mask
        bias = torch.where(seen, 0.0, -torch.inf) if seen.dtype == torch.bool else seen
        plain = (torch.einsum("bhld,bhsd->bhls", q, k) / 8**0.5 + bias).softmax(-1)
        assert torch.allclose(exact, plain @ v, atol=1e-6)


def test_small_pieces():
    x = torch.randn(5, 3)
    assert fourier_features(x, num_bands=4, longest=2.0).shape == (5, 27)
    assert torch.allclose(sinusoidal_embedding(torch.zeros(2), 8), torch.tensor([1.0] * 4 + [0.0] * 4).expand(2, 8))
    assert torch.equal(MLP([3, 8, 2], zero_init=True)(x), torch.zeros(5, 2))
    assert torch.allclose(RMSNorm(3)(x).square().mean(-1), torch.ones(5), atol=1e-3)
    assert num_parameters(MLP([3, 8, 2])) == 3 * 8 + 8 + 8 * 2 + 2


def test_norm_is_that_of_torch():
    """Values and gradients, with weights and without, and at zero, where a norm has no slope."""
    x = torch.randn(4, 7, 12, dtype=torch.float64)
    x[0, 0] = 0.0
    for affine in (True, False):
        ours, theirs = (kind(12, elementwise_affine=affine).double() for kind in (RMSNorm, torch.nn.RMSNorm))
        if affine:
            with torch.no_grad():
                ours.weight.copy_(theirs.weight.normal_())
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(ours(a), theirs(b))
        ours(a).sin().sum().backward(), theirs(b).sin().sum().backward()
        torch.testing.assert_close(a.grad[x != 0], b.grad[x != 0])
        assert bool(a.grad.isfinite().all())
    half = x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert RMSNorm(12)(half).dtype == torch.bfloat16
