from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mutoscope import plan
from mutoscope.autoencoders import hunyuan
from mutoscope.autoencoders.base import LatentShape, Patch, Size, nearest_multiple
from mutoscope.autoencoders.hunyuan import PRESETS, HunyuanAutoencoder
from mutoscope.core.errors import RequestError
from mutoscope.diffusion.guidance import Guidance
from mutoscope.models.family import Family, Sampling, families, find
from mutoscope.plan import HARDWARE, Workload, count, refuse_unless_it_fits

H200 = HARDWARE["h200"]


class Squares(nn.Module):
    """An autoencoder of one layer: squares of 8 x 8 pixels, and groups of 4 frames after the first."""

    channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.ConvTranspose3d(self.channels, 3, (4, 8, 8), (4, 8, 8))

    def decode_stream(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        yield self.pixels(latents)

    def latent_shape(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> LatentShape:
        nearest = self.nearest_size(num_frames, height, width, patch)
        if nearest != (num_frames, height, width):
            raise RequestError(f"it does not fit, use {nearest}")
        return LatentShape(self.channels, num_frames // 4 + 1, height // 8, width // 8)

    def nearest_size(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> Size:
        sides = (nearest_multiple(side, 8 * patch.space) for side in (height, width))
        return Size(nearest_multiple(num_frames + 3, 4 * patch.time) - 3, *sides)

    def encode(self, video: object) -> torch.Tensor:
        raise NotImplementedError

    decode = latents_id = encode


class Squares16(Squares):
    channels = 16


def tiny(**changes: Any) -> Workload:
    family, config = find("stiv/tiny")
    config = replace(config, depth=1, full_blocks=1, patch_size=(1, 2, 2))
    return Workload(replace(family, autoencoder=Squares), config, Size(9, 128, 128), **changes)


@pytest.fixture(scope="module")
def made() -> plan.Plan:
    return plan.plan(tiny(encoder_parameters=10**7), H200)


def attention(length: int) -> plan.Count:
    q = torch.empty(2, 3, length, 16, device="meta")
    return count(lambda: F.scaled_dot_product_attention(q, q, q))


def test_products_are_counted_as_torch_counts_them() -> None:
    net = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.Flatten(2), nn.Linear(4 * 6 * 6, 10))
    x = torch.randn(2, 3, 4, 6, 6)
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        net(x)
    ours = count(lambda: net(x), [net])
    assert ours.flops == theirs.get_total_flops()
    assert ours.convolution_flops == 2 * (2 * 8 * 4 * 6 * 6) * 27 * 3
    assert ours.attention_flops == 0


def test_attention_costs_two_products_and_no_square_of_memory() -> None:
    one, double = attention(1000), attention(2000)
    assert one.flops == one.attention_flops == 4 * 2 * 3 * 1000 * 1000 * 16
    assert double.flops == 4 * one.flops
    assert one.peak_bytes == one.attention_bytes // 4 == 2 * 3 * 1000 * 16 * 4
    assert double.peak_bytes == 2 * one.peak_bytes


def test_peak_is_what_is_held_at_once() -> None:
    def run() -> torch.Tensor:
        a = torch.empty(1000, device="meta")
        b = a + 1  # two are held
        del a
        c = b[:500]  # a view holds nothing of its own
        b += 1  # nor does work in place
        return torch.cat([b, c])  # and at the end, one and two and a half

    counted = count(run)
    assert counted.peak_bytes == 4 * 2500
    assert counted.moved_bytes == 4 * (1000 + 2000 + 2000 + 3000)


def test_weights_are_not_counted_as_work() -> None:
    with torch.device("meta"):
        net = nn.Linear(1000, 1000)
        x = torch.empty(1, 1000)
    assert count(lambda: net(x), [net]).peak_bytes == 4 * 1000


@pytest.mark.parametrize(
    ("size", "tokens", "petaflops"),
    [  # by hand: 60 attentions of width 3072, and 12.46 G parameters of blocks, over these tokens and 256 of text
        (Size(129, 720, 1280), 118_800, 12.07),
        (Size(129, 544, 960), 67_320, 4.29),
        (Size(129, 480, 848), 52_470, 2.77),
        (Size(65, 480, 848), 27_030, 0.92),
    ],
)
@pytest.mark.skipif("hunyuan" not in families(), reason="there is no hunyuan here")
def test_hunyuan_costs_what_its_equations_say(size: Size, tokens: int, petaflops: float) -> None:
    family, config = find("hunyuan/t2v")
    shallow = replace(config, depth=1, single_depth=1)  # blocks are all alike, and one of each is quicker to count
    bare = replace(family, autoencoder=Squares16)
    whole = plan.plan(Workload(bare, shallow, size), H200)
    assert whole.tokens == tokens
    more = plan.plan(Workload(bare, replace(shallow, depth=2), size), H200).network.count.flops
    still = plan.plan(Workload(bare, replace(shallow, single_depth=2), size), H200).network.count.flops
    once = whole.network.count.flops
    total = once + 19 * (more - once) + 39 * (still - once)
    assert round(total / 1e15, 2) == petaflops


def test_devices_divide_tokens_but_not_weights(made: plan.Plan) -> None:
    four = replace(made, num_devices=4)
    assert four.work_bytes(four.network) == made.work_bytes(made.network) // 4
    assert four.work_bytes(four.autoencoder) == made.work_bytes(made.autoencoder)
    assert made.floor_s / 4 <= four.floor_s <= made.floor_s
    assert made.expected_s / 4 < four.expected_s


def test_expected_time_is_never_below_the_floor(made: plan.Plan) -> None:
    for device in HARDWARE.values():
        for num_devices in (1, 8):
            there = replace(made, hardware=device, num_devices=num_devices)
            assert there.expected_s >= there.floor_s > 0


def test_step_costs_the_branches_of_its_guidance_and_the_calls_of_its_solver() -> None:
    once = plan.plan(tiny(branches=1, steps=10, sampler="euler"), H200)
    thrice = plan.plan(tiny(branches=3, steps=10, sampler="heun"), H200)
    assert thrice.network.count.flops == 3 * once.network.count.flops
    assert thrice.workload.num_calls == 19
    assert thrice.step_flops == 3 * once.network.count.flops * 19 // 10


def test_offload_needs_room_for_the_greatest_component_alone(made: plan.Plan) -> None:
    assert made.peak_bytes("component") == max(part.weight_bytes + made.work_bytes(part) for part in made.parts)
    weights = sum(part.weight_bytes for part in made.parts)
    assert made.peak_bytes("none") == weights + max(map(made.work_bytes, made.parts))


GREAT = tiny(encoder_parameters=10**7, steps=10**6)  # called often enough to be worth counting


def test_what_fits_is_let_through(made: plan.Plan) -> None:
    refuse_unless_it_fits(GREAT, made.peak_bytes("none"), "none", "it")


def test_what_does_not_fit_is_refused_with_ways_that_do(made: plan.Plan) -> None:
    available = made.peak_bytes("none") - 1
    with pytest.raises(RequestError) as error:
        refuse_unless_it_fits(GREAT, available, "none", "it", host=10**12)
    told = str(error.value)
    assert told.startswith("it at 128x128x9 needs ")
    assert ", or add --offload component. --force tries it anyway." in told
    height, width, frames = map(int, told.split("use ")[1].split(",")[0].split("x"))
    smaller = plan.plan(replace(GREAT, size=Size(frames, height, width)), H200)
    assert smaller.peak_bytes("none") <= available
    refuse_unless_it_fits(GREAT, available, "component", "it", host=10**12)


def test_what_fits_at_no_size_says_so(made: plan.Plan) -> None:
    with pytest.raises(RequestError, match="no size of it fits; use a device with more memory"):
        refuse_unless_it_fits(GREAT, 1000, "none", "it", host=10**12)
    weights = sum(part.weight_bytes for part in made.parts)
    with pytest.raises(RequestError, match=r": use \d+x\d+x\d+ with --offload component\. --force") as error:
        refuse_unless_it_fits(replace(GREAT, size=Size(81, 512, 512)), weights, "none", "it", host=10**12)
    assert "\n" not in str(error.value)


def test_components_cannot_wait_where_there_is_no_room_for_them(made: plan.Plan) -> None:
    available, weights = made.peak_bytes("none") - 1, sum(part.weight_bytes for part in made.parts)
    for host in (None, weights - 1):  # the device is the machine; or the machine has too little beside it
        with pytest.raises(RequestError) as error:
            refuse_unless_it_fits(GREAT, available, "none", "it", host=host)
        assert "--offload" not in str(error.value)
    with pytest.raises(RequestError, match=r"with --offload component needs .* of the machine's memory, you have"):
        refuse_unless_it_fits(GREAT, available, "component", "it", host=weights - 1)
    with pytest.raises(RequestError, match="it at 128x128x9 needs"):
        refuse_unless_it_fits(GREAT, available, "component", "it", host=None)


BEARS = replace(GREAT, family=replace(GREAT.family, quantized=("blocks.",)), size=Size(9, 64, 64), encoder_parameters=0)


def test_eight_bits_are_counted_and_the_work_is_the_same() -> None:
    work = replace(BEARS, config=replace(BEARS.config, depth=3))
    plain, small = (plan.plan(one, H200) for one in (work, replace(work, quantize="fp8")))
    with torch.device("meta"):
        network = work.family.network(work.config)
    inside = [layer for name, layer in network.named_modules() if name.startswith("blocks.")]
    linears = [layer for layer in inside if isinstance(layer, nn.Linear)]
    saved = sum(linear.weight.numel() for linear in linears) * (torch.bfloat16.itemsize - 1) - 4 * len(linears)
    assert plain.network.weight_bytes - small.network.weight_bytes == saved > 0
    assert small.network.parameters == plain.network.parameters
    assert small.network.count.flops == plain.network.count.flops
    assert small.network.count.moved_bytes > plain.network.count.moved_bytes  # weights are made at every call


def test_eight_bits_are_proposed_where_they_fit() -> None:
    work = replace(BEARS, config=replace(BEARS.config, depth=12))
    plain, small = (plan.plan(one, H200) for one in (work, replace(work, quantize="fp8")))
    assert small.peak_bytes("none") < plain.peak_bytes("component")
    with pytest.raises(RequestError, match="add --quantize fp8"):
        refuse_unless_it_fits(work, small.peak_bytes("none"), "none", "it")
    with pytest.raises(RequestError, match="add --offload component --quantize fp8"):
        refuse_unless_it_fits(work, small.peak_bytes("component"), "none", "it", host=small.waiting_bytes)
    for one, available in ((work, 1000), (replace(work, quantize="fp8"), small.peak_bytes("none") - 1)):
        with pytest.raises(RequestError, match="it at 64x64x9 needs") as error:
            refuse_unless_it_fits(one, available, "none", "it")
        assert "--quantize" not in str(error.value)
    refuse_unless_it_fits(replace(work, quantize="fp8"), small.peak_bytes("none"), "none", "it")


def test_eight_bits_are_refused_where_no_layer_bears_them() -> None:
    with pytest.raises(RequestError, match=r"No layers of it are known to bear eight bits\. Leave out --quantize fp8"):
        plan.refuse_quantized(GREAT.family, "it", "fp8")
    plan.refuse_quantized(GREAT.family, "it", None)
    plan.refuse_quantized(BEARS.family, "it", "fp8")


class Tiles(Squares):
    """The same, which also decodes in tiles and then needs nothing worth speaking of."""

    def decode_tiled(
        self, latents: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> Iterator[torch.Tensor]:
        decode = run or self.pixels
        return (decode(part) for row in latents.split(16, 3) for part in row.split(16, 4))


TILED = replace(GREAT, family=replace(GREAT.family, autoencoder=Tiles), size=Size(9, 1024, 1024), branches=1)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunyuan, "Tiling", partial(hunyuan.Tiling, 32, 4, 16, 4))


@pytest.mark.usefixtures("small_tiles")
def test_tiles_are_counted_by_the_first() -> None:
    with torch.device("meta"):
        autoencoder, latents = HunyuanAutoencoder(PRESETS["tiny"]), torch.empty(1, 4, 6, 6, 6)
    real = count(lambda: [None for _ in autoencoder.decode_tiled(latents)], [autoencoder])
    told = plan._decode_tiled(autoencoder, latents)
    assert told.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)
    assert told.flops == pytest.approx(real.flops, rel=0.1)
    assert told.peak_bytes < plan._decode(autoencoder, latents).peak_bytes


@pytest.mark.usefixtures("small_tiles")
def test_longer_clips_in_tiles_take_no_more_memory() -> None:
    with torch.device("meta"):
        autoencoder = HunyuanAutoencoder(PRESETS["tiny"])
        some, many = (torch.empty(1, 4, frames, 8, 10) for frames in (8, 80))
    grown = plan._decode_tiled(autoencoder, many).peak_bytes - plan._decode_tiled(autoencoder, some).peak_bytes
    assert grown <= 2 * (many.nbytes - some.nbytes)  # which are there as they came, and scaled


def test_tiles_are_taken_into_account_unless_exactness_was_asked_for() -> None:
    both = plan.plan(TILED, H200)
    assert both.tiled is not None
    assert both.work_bytes(both.tiled) < both.work_bytes(both.network) < both.work_bytes(both.autoencoder)
    available = both.peak_bytes("none", "tiled")
    assert available < both.peak_bytes("none")
    assert both.least_bytes("none") == available
    refuse_unless_it_fits(TILED, available, "none", "it")
    refuse_unless_it_fits(replace(TILED, decode="tiled"), available, "none", "it")
    with pytest.raises(RequestError, match="leave out --decode exact"):
        refuse_unless_it_fits(replace(TILED, decode="exact"), available, "none", "it")
    with pytest.raises(RequestError, match="it at 1024x1024x9 needs") as error:
        refuse_unless_it_fits(TILED, available - 1, "none", "it")
    assert "--decode" not in str(error.value)


def test_exact_decoding_is_chosen_where_it_fits() -> None:
    autoencoder = HunyuanAutoencoder(PRESETS["tiny"]).requires_grad_(False)
    latents = torch.randn(1, 4, 3, 4, 4)
    with torch.inference_mode():
        assert plan.choose_decoding(autoencoder, latents, available=10**9) == plan.Decoding("exact")
        chosen = plan.choose_decoding(autoencoder, latents, available=10**5)
    assert chosen.way == "tiled"
    assert len(chosen.notices) == 1
    assert chosen.notices[0].startswith("decoded in the published tiles, which changes the picture a little")
    assert chosen.notices[0].endswith("and there are 0.1 MB")
    assert all(own.device.type == "cpu" for own in autoencoder.parameters())
    assert plan.choose_decoding(autoencoder, latents, "exact", available=0) == plan.Decoding("exact")
    assert plan.choose_decoding(cast(Any, Squares()), latents, available=0) == plan.Decoding("exact")
    plan.choose_decoding(autoencoder, latents)  # by what this machine has now


def test_tiles_are_refused_where_there_are_none() -> None:
    with pytest.raises(RequestError, match=r"it decodes exactly and not in tiles\. Leave out --decode tiled"):
        plan.refuse_tiles(GREAT.family, "it", "tiled")
    plan.refuse_tiles(GREAT.family, "it", "exact")
    plan.refuse_tiles(TILED.family, "it", "tiled")


def test_little_work_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "count", lambda *_: pytest.fail("it was counted"))
    refuse_unless_it_fits(tiny(), 0, "none", "it")
    monkeypatch.setattr(plan, "_modules", lambda *_: pytest.fail("it was built"))
    refuse_unless_it_fits(tiny(parameters=10**6), 0, "none", "it")


def test_illegal_size_is_refused_before_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "count", lambda *_: pytest.fail("it was counted"))
    with pytest.raises(RequestError, match="it does not fit"):
        refuse_unless_it_fits(replace(GREAT, size=Size(9, 100, 100)), 10**12, "none", "it")


def test_no_device_is_refused() -> None:
    with pytest.raises(RequestError, match="gpus=0"):
        plan.plan(tiny(), H200, 0)


def test_family_defaults_fill_in_what_is_not_said() -> None:
    family: Family = replace(find("stiv")[0], sampling=Sampling(20, "heun", Guidance(3.0)))
    work = Workload(family, find("stiv/tiny")[1], Size(8, 64, 64))
    assert (work.num_steps, work.num_calls, work.batch) == (20, 39, 2)


def test_frames_that_are_sampled_and_dropped_are_counted(made: plan.Plan) -> None:
    work = made.workload
    longer = replace(work, family=replace(work.family, dropped=lambda _: 4))
    assert plan.plan(longer, H200).tokens == made.tokens // 3 * 4  # 13 frames in place of 9: 4 latents in place of 3


def test_sizes_of_memory_are_spelt_to_three_digits() -> None:
    assert [plan.spell_bytes(size) for size in (0, 48.3e6, 25.64e9, 141e9, 0.9996e9, 4.64e12)] == [
        "0.0 MB",
        "48.3 MB",
        "25.6 GB",
        "141 GB",
        "1.0 GB",
        "4.6 TB",
    ]
