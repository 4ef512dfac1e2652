"""Models of timm and torchvision: heads, channels, sizes, weights from the cache, and what is said without them.

No test reaches the network: weights are made here and put where a download would put them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tellapart.errors import ConfigError, MissingError
from tellapart.models import create_model, is_external, pretrained_license, pretrained_normalization

TIMM_REPOSITORY = "models--timm--test_resnet.r160_in1k"


def refuse(*_: object, **__: object) -> Any:
    raise ConnectionError("no network here")


@pytest.fixture
def torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch.hub an empty cache and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give huggingface_hub an empty cache and no network."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def weights_of(name: str) -> Any:
    """Return torchvision's entry for the weights that our code asks for."""
    from torchvision import models

    weights: Any = models.get_model_weights(name)
    return weights.DEFAULT


def put_into_torch_cache(folder: Path, name: str, **arguments: Any) -> nn.Module:
    """Store random weights as torchvision's weights of the model, and return the model that has them."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **arguments).eval()
    torch.save(model.state_dict(), folder / Path(weights_of(name).url).name)
    return model


def put_into_hub_cache(folder: Path) -> nn.Module:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_resnet").eval()
    snapshot = folder / TIMM_REPOSITORY / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (folder / TIMM_REPOSITORY / "refs").mkdir()
    (folder / TIMM_REPOSITORY / "refs" / "main").write_text("0123456789")
    safetensors.torch.save_file(model.state_dict(), snapshot / "model.safetensors")
    return model


def test_prefixes() -> None:
    assert is_external("timm:resnet18")
    assert is_external("torchvision:resnet18")
    assert not any(map(is_external, ("resnet18", "timm", "keras:resnet18", "")))


# Untrained models


@pytest.mark.parametrize(
    ("name", "size_px"),
    [
        ("timm:test_resnet", 32),
        ("timm:test_vit", 48),
        ("timm:test_vit", 160),
        ("timm:test_efficientnet.r160_in1k", 30),
        ("torchvision:squeezenet1_1", 48),
        ("torchvision:shufflenet_v2_x0_5", 30),
        ("torchvision:googlenet", 64),
        pytest.param("torchvision:inception_v3", 96, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_logits_have_the_right_width_in_train_and_eval(name: str, size_px: int, in_channels: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, in_channels=in_channels, size_px=size_px)
    assert model.training
    images = torch.randn(2, in_channels, size_px, size_px)
    for mode in (True, False):
        logits = model.train(mode)(images)
        assert isinstance(logits, torch.Tensor)
        assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_untrained_first_layer_keeps_the_size_of_its_output() -> None:
    def stem_spread(in_channels: int) -> float:
        torch.manual_seed(0)
        model = create_model("torchvision:resnet18", num_classes=5, in_channels=in_channels, size_px=32)
        conv = model.get_submodule("conv1")
        assert isinstance(conv, nn.Conv2d)
        assert conv.in_channels == in_channels
        assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)
        return conv(torch.randn(8, in_channels, 64, 64)).std().item()

    assert stem_spread(1) == pytest.approx(stem_spread(3), rel=0.05)
    assert stem_spread(6) == pytest.approx(stem_spread(3), rel=0.05)


def test_creation_draws_as_many_random_numbers_as_the_package_does() -> None:
    """The trial run on one image must not shift what comes after."""
    from torchvision import models

    torch.manual_seed(0)
    models.get_model("squeezenet1_1", weights=None, num_classes=5)
    expected = torch.rand(3)
    torch.manual_seed(0)
    create_model("torchvision:squeezenet1_1", num_classes=5, size_px=32)
    assert torch.equal(torch.rand(3), expected)


# Pretrained weights


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_torchvision_weights_from_the_cache(name: str, torch_cache: Path) -> None:
    theirs = put_into_torch_cache(torch_cache, name)
    images = torch.rand(2, 3, 64, 64)
    same_head = create_model(f"torchvision:{name}", num_classes=1000, size_px=64, pretrained=True).eval()
    assert torch.equal(same_head(images), theirs(images))
    ours = create_model(f"torchvision:{name}", num_classes=5, size_px=64, pretrained=True)
    assert ours(images).shape == (2, 5)
    changed = [k for k, v in ours.state_dict().items() if v.shape != theirs.state_dict()[k].shape]
    assert [key.rpartition(".")[2] for key in changed] == ["weight", "bias"]
    for key, value in ours.state_dict().items():
        if key not in changed and "running" not in key and "num_batches" not in key:
            assert torch.equal(value, theirs.state_dict()[key]), key


def test_grey_images_give_what_their_colour_copies_gave(torch_cache: Path) -> None:
    theirs = put_into_torch_cache(torch_cache, "squeezenet1_1")
    ours = create_model("torchvision:squeezenet1_1", num_classes=1000, in_channels=1, size_px=64, pretrained=True)
    grey = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(ours.eval()(grey), theirs(grey.expand(2, 3, 64, 64)))


@pytest.mark.parametrize("in_channels", [1, 2, 4, 7])
def test_filters_are_adapted_as_timm_does(in_channels: int) -> None:
    from timm.models import adapt_input_conv

    from tellapart.models.from_torchvision import adapt_filters

    weight = torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(adapt_filters(weight, in_channels), adapt_input_conv(in_channels, weight.clone()))


def test_auxiliary_heads_of_the_weights_are_left_out(torch_cache: Path) -> None:
    put_into_torch_cache(torch_cache, "googlenet", aux_logits=True, init_weights=False)
    model = create_model("torchvision:googlenet", num_classes=5, size_px=64, pretrained=True)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert not any("aux" in key for key in model.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_half_normalization_is_what_torchvision_makes_of_its_own(name: str) -> None:
    from torchvision import models

    preset = weights_of(name).transforms()
    with torch.device("meta"):
        reference: Any = models.get_model(name, weights=None, transform_input=True, init_weights=False)
    pixels = torch.rand(2, 3, 4, 4)
    standard = (pixels - torch.tensor(preset.mean).view(3, 1, 1)) / torch.tensor(preset.std).view(3, 1, 1)
    found = pretrained_normalization(f"torchvision:{name}")
    assert found == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close((pixels - 0.5) / 0.5, reference._transform_input(standard))


def test_position_embeddings_of_torchvision_are_resampled() -> None:
    from torchvision.models.vision_transformer import VisionTransformer

    from tellapart.models.from_torchvision import _load_into

    def make(size_px: int) -> VisionTransformer:
        return VisionTransformer(size_px, 16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=4)

    state = make(64).state_dict()
    positions = state["encoder.pos_embedding"].clone()
    model = make(96)
    _load_into(model, "vit_b_16", state, 96)
    resampled = model.encoder.pos_embedding
    assert resampled.shape == (1, 37, 8)
    assert torch.equal(resampled[:, 0], positions[:, 0])  # the class token's
    corners = resampled[:, 1:].reshape(6, 6, 8)[[0, 0, 5, 5], [0, 5, 0, 5]]
    torch.testing.assert_close(corners, positions[:, 1:].reshape(4, 4, 8)[[0, 0, 3, 3], [0, 3, 0, 3]])


def test_old_names_in_densenet_weights_are_understood() -> None:
    from torchvision.models import DenseNet

    from tellapart.models.from_torchvision import _load_into

    arguments: dict[str, Any] = {"growth_rate": 4, "block_config": (2, 2), "num_init_features": 8, "num_classes": 3}
    theirs, ours = DenseNet(**arguments).eval(), DenseNet(**arguments).eval()
    state = {}
    for key, value in theirs.state_dict().items():
        for layer in ("norm", "conv"):
            key = key.replace(f".{layer}1.", f".{layer}.1.").replace(f".{layer}2.", f".{layer}.2.")
        state[key] = value
    assert any(".norm.1.running_mean" in key for key in state)
    _load_into(ours, "densenet121", state, 32)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))


def test_timm_weights_from_the_cache(hub_cache: Path) -> None:
    theirs = put_into_hub_cache(hub_cache)
    images = torch.rand(2, 3, 64, 64)
    same_head = create_model("timm:test_resnet", num_classes=1000, size_px=64, pretrained=True).eval()
    assert torch.equal(same_head(images), theirs(images))
    ours = create_model("timm:test_resnet", num_classes=5, in_channels=1, size_px=64, pretrained=True).eval()
    assert ours(images[:, :1]).shape == (2, 5)
    key = "layer4.0.conv1.weight"
    assert torch.equal(ours.state_dict()[key], theirs.state_dict()[key])


@pytest.mark.parametrize("prefix", ["timm", "torchvision"])
def test_weights_that_cannot_be_had(prefix: str, torch_cache: Path, hub_cache: Path) -> None:
    name = {"timm": "timm:test_resnet", "torchvision": "torchvision:squeezenet1_1"}[prefix]
    with pytest.raises(MissingError) as error:
        create_model(name, num_classes=5, size_px=64, pretrained=True)
    text = str(error.value)
    place = {"timm": str(hub_cache), "torchvision": str(torch_cache)}[prefix]
    address = {
        "timm": "huggingface.co/timm/test_resnet.r160_in1k",
        "torchvision": "download.pytorch.org/models/squeeze",
    }
    for word in (name, "Tried: the cache, then https://", address[prefix], "pretrained=False", place):
        assert word in text


def test_a_damaged_file_in_the_cache(torch_cache: Path) -> None:
    path = torch_cache / Path(weights_of("squeezenet1_1").url).name
    path.write_bytes(b"not weights")
    with pytest.raises(MissingError, match="delete a damaged one first"):
        create_model("torchvision:squeezenet1_1", num_classes=5, size_px=64, pretrained=True)


def test_a_weights_file_cannot_run_code(torch_cache: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (torch_cache / "sprung",)

    torch.save(Trap(), torch_cache / Path(weights_of("squeezenet1_1").url).name)
    with pytest.raises(MissingError):
        create_model("torchvision:squeezenet1_1", num_classes=5, size_px=64, pretrained=True)
    assert not (torch_cache / "sprung").exists()


def test_a_model_without_weights_says_so() -> None:
    with pytest.raises(ConfigError, match=r"no pretrained weights for 'timm:test_mambaout'.*pretrained=False"):
        create_model("timm:test_mambaout", num_classes=5, size_px=64, pretrained=True)
    assert pretrained_normalization("timm:test_mambaout") is None


# Facts about the weights


def test_normalization() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pretrained_normalization("resnet18") is None
    assert pretrained_normalization("torchvision:resnet18") == imagenet
    assert pretrained_normalization("timm:resnet18") == imagenet
    assert pretrained_normalization("timm:test_vit") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    grey = pretrained_normalization("torchvision:resnet18", in_channels=1)
    assert grey == (pytest.approx((0.449,)), pytest.approx((0.226,)))


def test_license() -> None:
    assert pretrained_license("resnet18") is None
    assert pretrained_license("timm:hiera_tiny_224") == "cc-by-nc-4.0"
    assert pretrained_license("torchvision:resnet18") is None


# Wrong requests


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("timm:convnxt_tiny", "timm:convnext_tiny"),
        ("timm:test_resnet.r160", "timm:test_resnet.r160_in1k"),
        ("torchvision:resnt50", "torchvision:resnet50"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, guess: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown model '{name}'. Did you mean '{guess}'") as error:
        create_model(name, num_classes=5)
    assert len(str(error.value)) < 400, "a list of a thousand names helps nobody"
    with pytest.raises(ConfigError, match="unknown model"):
        pretrained_normalization(name)


@pytest.mark.parametrize(
    ("name", "size_px", "message"),
    [
        (
            "torchvision:alexnet",
            32,
            "cannot take 3 x 32 x 32 images .* 64 px is the smallest that works.* made for 224 px",
        ),
        ("torchvision:vit_b_32", 48, "cannot be built for 3 x 48 x 48 images and 5 classes: Input shape indivisible"),
        ("timm:test_vit", 30, "cannot take 3 x 30 x 30 images .*patch size.* made for 160 px"),
    ],
)
def test_images_of_a_size_that_does_not_fit(name: str, size_px: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(name, num_classes=5, size_px=size_px)


def test_numbers_out_of_range_are_found_before_the_package_is_asked() -> None:
    with pytest.raises(ConfigError, match="num_classes must be at least 1, found 0"):
        create_model("timm:no_such_model", num_classes=0)


@pytest.mark.parametrize(
    ("package", "command"), [("timm", r"pip install 'tellapart\[timm\]'"), ("torchvision", "pip install torchvision")]
)
def test_a_missing_package_is_named_with_its_command(
    package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match=command):
        create_model(f"{package}:resnet18", num_classes=5)
    with pytest.raises(MissingError, match=command):
        pretrained_normalization(f"{package}:resnet18")
