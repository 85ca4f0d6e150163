from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.conv import Conv, ImageDecoder, ImageEncoder, UpsampleConv, fold, unfold
from worldformula.nets.layers import RMSNorm


def norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the channels of [N, C, H, W]."""
    return x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-4) * scale.view(1, -1, 1, 1)


def spread(module: torch.nn.Module) -> None:
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)


def test_upsampling_convolution_equals_interpolate_then_convolve() -> None:
    torch.manual_seed(0)
    net = UpsampleConv(3, 2).double()
    spread(net)
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    big = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    expected = F.conv2d(big, net.weight, net.bias, padding=2).permute(0, 2, 3, 1)
    torch.testing.assert_close(net(x), expected)
    weight = torch.randn_like(expected)
    for tensor in (x, net.weight, net.bias):
        (ours,) = torch.autograd.grad((net(x) * weight).sum(), tensor)
        (theirs,) = torch.autograd.grad((expected * weight).sum(), tensor, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


def test_encoder_against_its_definition() -> None:
    torch.manual_seed(0)
    net = ImageEncoder(16, 4, depth=2).double()
    spread(net)
    colour, grey = torch.rand(3, 16, 16, 3).double(), torch.rand(3, 16, 16, 1).double()
    x = torch.cat([colour, grey], -1).permute(0, 3, 1, 2) - 0.5
    for conv, n, width in zip(net.convs, net.norms, (4, 6, 8, 8), strict=True):
        assert isinstance(conv, Conv)
        assert isinstance(n, RMSNorm)
        assert conv.weight.shape[0] == width
        x = F.silu(norm(F.max_pool2d(F.conv2d(x, conv.weight, conv.bias, padding=2), 2), n.scale))
    torch.testing.assert_close(net(colour, grey), x.permute(0, 2, 3, 1).flatten(1))


def test_uint8_and_scaled_floats_are_the_same_image() -> None:
    torch.manual_seed(0)
    net = ImageEncoder(16, 3, depth=2)
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    torch.testing.assert_close(net(pixels), net(pixels.float() / 255))


def test_decoder_against_its_definition() -> None:
    torch.manual_seed(0)
    net = ImageDecoder(32, 3, depth=2, deter=16, stoch=6, units=5, blocks=4).double()
    spread(net)
    h, z = torch.randn(3, 16).double(), torch.randn(3, 2, 3).double()
    # Map of 2×2 with 8 channels: block g makes channels 2g and 2g+1 from h[4g:4g+4].
    x = torch.empty(3, 8, 2, 2, dtype=torch.float64)
    for g in range(4):
        out = h[:, 4 * g : 4 * g + 4] @ net.from_h.weight[g] + net.from_h.bias[g]
        x[:, 2 * g : 2 * g + 2] = out.view(3, 2, 2, 2).permute(0, 3, 1, 2)
    x = x + net.from_z(z.flatten(1)).view(3, 2, 2, 8).permute(0, 3, 1, 2)
    for n, conv, width in zip(net.norms, net.convs, (8, 6, 4, 3), strict=True):
        x = F.interpolate(F.silu(norm(x, n.scale)), scale_factor=2)
        x = F.conv2d(x, conv.weight, conv.bias, padding=2)
        assert x.shape[1] == width
    torch.testing.assert_close(net(h, z), torch.sigmoid(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("style", ["pool", "stride"])
def test_a_small_image_takes_fewer_stages(style: Literal["pool", "stride"]) -> None:
    encoder = ImageEncoder(32, 3, depth=4, stages=(2, 3, 4), style=style)
    decoder = ImageDecoder(32, 3, depth=4, deter=16, stoch=8, units=8, stages=(2, 3, 4))
    image = decoder(torch.randn(2, 16), torch.randn(2, 2, 4))
    assert image.shape == (2, 32, 32, 3)
    assert ((image > 0) & (image < 1)).all()
    assert encoder.resolution == 4
    assert encoder.width == 4 * 4 * 16
    assert encoder(image).shape == (2, encoder.width)


def test_patches_become_channels_and_back() -> None:
    x = torch.arange(2 * 4 * 6 * 3.0).view(2, 4, 6, 3)
    folded = fold(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    torch.testing.assert_close(folded[1, 1, 2], torch.cat([x[1, 2, 4], x[1, 2, 5], x[1, 3, 4], x[1, 3, 5]]))
    assert torch.equal(unfold(folded, 2), x)


def test_networks_on_patches_equal_networks_on_folded_images() -> None:
    torch.manual_seed(0)
    image, h, z = torch.rand(2, 32, 32, 3), torch.randn(2, 16), torch.randn(2, 2, 4)
    encoder = ImageEncoder(32, 3, depth=4, stages=(4,), style="stride", patch=4)
    plain = ImageEncoder(8, 48, depth=4, stages=(4,), style="stride")
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(image), plain(fold(image, 4)))
    decoder = ImageDecoder(32, 3, 4, deter=16, stoch=8, units=8, stages=(4,), patch=4)
    small = ImageDecoder(8, 48, 4, deter=16, stoch=8, units=8, stages=(4,))
    small.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(decoder(h, z), unfold(small(h, z), 4))


def test_initial_variance_uses_kernel_area_times_channels() -> None:
    torch.manual_seed(0)
    assert Conv(32, 256, 5).weight.std().item() == pytest.approx((25 * 32) ** -0.5, rel=1e-2)
    assert UpsampleConv(32, 256).weight.std().item() == pytest.approx((25 * 32) ** -0.5, rel=1e-2)


def test_wrong_images_and_sizes_are_explained() -> None:
    with pytest.raises(ShapeError, match=r"expected \[N, 16, 16, 3\] \(channels last\), got \[2, 3, 16, 16\]"):
        ImageEncoder(16, 3, depth=2)(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ConfigError, match="multiple of 16"):
        ImageEncoder(40, 3, depth=2)
    with pytest.raises(ConfigError, match="style"):
        ImageEncoder(16, 3, depth=2, style="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of blocks=8, got 4"):
        ImageDecoder(16, 3, depth=1, deter=16, stoch=6, units=5)
