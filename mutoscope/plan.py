"""What a video will cost before any weight is loaded: FLOPs, memory and time.

    Workload --plan--> Plan: tokens; of each part its parameters, weights, working memory and FLOPs; time on a Hardware

Nothing is estimated that can be counted: the networks' own forward passes run on the meta device, where tensors have
shapes and no numbers, and every operation is asked for its FLOPs and for the memory that it takes and gives back. So
the figures follow the code: HunyuanVideo comes to 12.07 PFLOP a step at 720x1280x129, of which attention has 87 %.
Attention counts as the fused kernel that it is on an accelerator, without its square of scores.

An autoencoder whose published code decodes in tiles is counted both ways: exactly, and in tiles, which changes the
picture a little and needs memory that does not grow with the clip. `choose_decoding` takes the exact way where it fits.

Time is another matter. `floor_s` is what the device would need if every product ran as fast as large ones do;
`expected_s` is our estimate, at the share of the printed speed that the best published systems reach.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mutoscope.autoencoders.base import Autoencoder, LatentShape, Patch, Size
from mutoscope.core.device import available_bytes
from mutoscope.core.errors import RequestError
from mutoscope.encoders.base import TextTokens
from mutoscope.models.family import Facts, Family
from mutoscope.placement.offload import Offload, resident
from mutoscope.placement.quantize import Quantize, num_parameters, quantize_linears

CALLS = MappingProxyType({"euler": (1, 0), "heun": (2, -1), "adams_bashforth": (1, 0)})  # of the network: a * steps + b
SUSTAINED = 0.8  # of the printed speed, by large products in bfloat16: 790 of 989 TFLOP/s on an H200
REACHED = 0.65  # of the printed speed, by the best published systems over a whole step (667 of 989 on an H100)
REACHED_BY_CONVOLUTIONS = 0.3  # our guess; published decoders reach less, but also do their work twice
SMALLER = (1, 3 / 4, 2 / 3, 1 / 2, 1 / 3)  # of each side, to look for a size that fits
SHORTER = (1, 1 / 2, 1 / 4)  # of the frames
Way = Literal["exact", "tiled"]  # of decoding
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
WORTH_COUNTING = 1e13  # FLOPs; less takes seconds, and counting would make up a good part of that


@dataclass(frozen=True)
class Hardware:
    """One device, by what its maker prints.

    Args:
        name: what it is called here.
        flops: of dense products a second, in bfloat16; of a CPU, in float32.
        bandwidth: of its memory, in bytes a second.
        memory_bytes: of it.
        link: to other devices of the same machine, in bytes a second one way.
    """

    name: str
    flops: float
    bandwidth: float
    memory_bytes: int
    link: float


HARDWARE = MappingProxyType(
    {
        device.name: device
        for device in (
            Hardware("h200", 989e12, 4.8e12, 141 * 10**9, 450e9),
            Hardware("h100", 989e12, 3.35e12, 80 * 10**9, 450e9),
            Hardware("a100", 312e12, 2.04e12, 80 * 10**9, 300e9),
            Hardware("l40s", 362e12, 864e9, 48 * 10**9, 32e9),
            Hardware("rtx4090", 165e12, 1.01e12, 24 * 10**9, 32e9),
            Hardware("npu-64gb", 313e12, 1.6e12, 64 * 10**9, 196e9),  # Ascend 910B, as reported; its maker prints less
        )
    }
)
CPU_CORE_FLOPS, CPU_BANDWIDTH = 60e9, 20e9  # of a core with AVX2 near 2 GHz; of a small server


@runtime_checkable
class Tileable(Protocol):
    """An autoencoder that can also decode as its published code does, in tiles."""

    def decode_tiled(self, latents: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> Iterator[Tensor]:
        """Yield the frames of the tiled decode in order; `run` makes pixels of one tile, the largest first."""
        ...


@dataclass(frozen=True)
class Workload:
    """A video to make, and how.

    Args:
        family: its model's family.
        config: its model's config.
        size: of the video.
        steps: sampling steps; the family's own if not given.
        sampler: as `diffusion.samplers` has it; the family's own if not given.
        branches: conditions that a step is evaluated for, as one batch; those of the family's guidance if not given.
        text_tokens: tokens of the prompt.
        dtype: of the network's weights and of latents.
        autoencoder_dtype: of the autoencoder's weights.
        encoder_parameters: of what encodes the prompt; it is not counted here, since it may not be ours.
        parameters: of the network, about, where they are known without building it.
        decode: how to decode; exactly if it fits, else in tiles, if not given.
        quantize: how the weights of the network's linear layers are kept; in `dtype` if not given.
        window: latent frames that the network sees at once; all, if not given.
        windows: of so many frames, for each of which the network is called at every evaluation.
        encoded: frames of the video's size that are encoded before sampling.
    """

    family: Family
    config: Any
    size: Size
    steps: int | None = None
    sampler: str | None = None
    branches: int | None = None
    text_tokens: int = 256
    dtype: torch.dtype = torch.bfloat16
    autoencoder_dtype: torch.dtype = torch.bfloat16
    encoder_parameters: int = 0
    parameters: int | None = None
    decode: Way | None = None
    quantize: Quantize | None = None
    window: int | None = None
    windows: int = 1
    encoded: int = 0

    @property
    def num_calls(self) -> int:
        """Calls of the network for one video."""
        slope, start = CALLS[self.sampler or self.family.sampling.sampler]
        return self.windows * (slope * self.num_steps + start)

    @property
    def num_steps(self) -> int:
        """Sampling steps."""
        return self.steps or self.family.sampling.steps

    @property
    def batch(self) -> int:
        """Samples that the network sees at once."""
        guidance = self.family.guidance_around(self.config, self.family.sampling.guidance)
        return self.branches or len(guidance.weights(has_image=False))

    @property
    def patch(self) -> Patch:
        """Latents that make a token."""
        return Patch(*self.config.patch_size[:2])


@dataclass(frozen=True)
class Count:
    """What one run of a network takes.

    Args:
        flops: of products, attention among them.
        attention_flops: of attention.
        convolution_flops: of convolutions, which are among the products too.
        attention_bytes: of queries, keys, values and what was read, over all attentions.
        moved_bytes: read and written, if no two operations were fused.
        peak_bytes: held at once, at most, besides weights and inputs.
    """

    flops: int
    attention_flops: int
    convolution_flops: int
    attention_bytes: int
    moved_bytes: int
    peak_bytes: int


NOTHING = Count(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Part:
    """One component of a model.

    Args:
        name: of it.
        parameters: of it.
        weight_bytes: of its weights.
        count: of one run of it.
    """

    name: str
    parameters: int
    weight_bytes: int
    count: Count


@dataclass(frozen=True)
class Plan:
    """What a workload costs on `num_devices` devices, among which tokens are divided, but not weights.

    Args:
        workload: what was asked.
        hardware: on which device.
        num_devices: how many of them.
        tokens: of the video, or of one window of it.
        encoder, network, autoencoder: the components; of the network one call is counted.
        tiled: the autoencoder when it decodes in tiles, if it can.
    """

    workload: Workload
    hardware: Hardware
    num_devices: int
    tokens: int
    encoder: Part
    network: Part
    autoencoder: Part
    tiled: Part | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The components, in the order in which they are used."""
        return self.encoder, self.network, self.autoencoder

    def work_bytes(self, part: Part) -> int:
        """Return what a component holds on one device besides its weights."""
        return part.count.peak_bytes // (self.num_devices if part is self.network else 1)

    def peak_bytes(self, offload: Offload, way: Way = "exact") -> int:
        """Return the most memory taken on one device: with all weights on it, or with those of one component.

        Args:
            offload: how components share the device.
            way: to decode; what cannot decode in tiles does so exactly.
        """
        decoder = self.tiled if way == "tiled" and self.tiled is not None else self.autoencoder
        parts = self.encoder, self.network, decoder
        if offload == "component":
            return max(part.weight_bytes + self.work_bytes(part) for part in parts)
        return sum(part.weight_bytes for part in parts) + max(map(self.work_bytes, parts))

    @property
    def waiting_bytes(self) -> int:
        """Weights of all components, which wait beside the device where they take turns on it."""
        return sum(part.weight_bytes for part in self.parts)

    def least_bytes(self, offload: Offload) -> int:
        """Return the same for the way to decode that was asked for, or else for the one that takes less."""
        ways: tuple[Way, ...] = ("exact", "tiled") if self.workload.decode is None else (self.workload.decode,)
        return min(self.peak_bytes(offload, way) for way in ways)

    @property
    def step_flops(self) -> int:
        """FLOPs of one sampling step, on average."""
        return self.network.count.flops * self.workload.num_calls // self.workload.num_steps

    @cached_property
    def floor_s(self) -> float:
        """Seconds that nothing on this device can undercut."""
        rate = SUSTAINED * self.hardware.flops * self.num_devices
        call = max(self.network.count.flops / rate, self.network.weight_bytes / self.hardware.bandwidth)
        return self.workload.num_calls * call + self.autoencoder.count.flops / (SUSTAINED * self.hardware.flops)

    @cached_property
    def expected_s(self) -> float:
        """Seconds that it will take, by our estimate: sampling, and decoding on one device."""
        rate = REACHED * self.hardware.flops * self.num_devices
        call = max(self.network.count.flops / rate, self.network.weight_bytes / self.hardware.bandwidth)
        # Ulysses: each device sends what it holds of q, k, v and of the result to all others.
        others = (self.num_devices - 1) / self.num_devices**2
        call += self.network.count.attention_bytes * others / self.hardware.link
        return self.workload.num_calls * call + self.decode_s

    @property
    def decode_s(self) -> float:
        """Seconds of decoding, and of encoding what is known before, by our estimate."""
        count = self.autoencoder.count
        plain = (count.flops - count.convolution_flops) / REACHED
        return (plain + count.convolution_flops / REACHED_BY_CONVOLUTIONS) / self.hardware.flops


def cpu(num_cores: int, memory_bytes: int) -> Hardware:
    """Describe a CPU, roughly."""
    return Hardware("cpu", CPU_CORE_FLOPS * num_cores, CPU_BANDWIDTH, memory_bytes, CPU_BANDWIDTH)


def plan(workload: Workload, hardware: Hardware, num_devices: int = 1) -> Plan:
    """Count what a workload costs; takes some seconds, and no weights.

    Raises:
        RequestError: the size is not legal, or there is no device.
    """
    if num_devices < 1:
        raise RequestError(f"gpus={num_devices} is no number of devices. Give at least 1.")
    return _plan(workload, hardware, num_devices, *_modules(workload))


def refuse_unless_it_fits(
    workload: Workload, available: int, offload: Offload, name: str, *, host: int | None = None
) -> None:
    """Refuse a workload that a device has no room for, and name what it has room for.

    What takes a few seconds anyway is let through uncounted.

    Args:
        workload: what was asked.
        available: memory of the device, in bytes.
        offload: how components share it.
        name: of the model, for the message.
        host: memory of the machine beside the device, where components wait, in bytes; None if the device is the
            machine, so that nothing can wait elsewhere.

    Raises:
        RequestError: it does not fit, or its size is not legal.
    """
    if 2 * _parameters(workload) * _most_tokens(workload) * workload.batch * workload.num_calls < WORTH_COUNTING:
        return
    network, autoencoder = _modules(workload)

    @cache
    def made(size: Size) -> Plan:
        return _plan(replace(workload, size=size), cpu(1, available), 1, network, autoencoder)

    def largest(offload: Offload) -> Size | None:
        """Return the largest size about as wide and as long that fits; None if none does."""
        return _largest_that_fits(sizes, lambda size: made(size).least_bytes(offload), available)

    def may_wait(made: Plan) -> bool:
        """Say whether all components have room in the machine beside the device."""
        return host is not None and made.waiting_bytes <= host

    sizes = _smaller_sizes(workload, autoencoder)
    asked = made(workload.size)
    used: Offload = "none" if host is None else offload
    if used == "component" and host is not None and not may_wait(asked):
        raise RequestError(
            f"{name} with --offload component needs {spell_bytes(asked.waiting_bytes)} of the machine's memory, you "
            f"have {spell_bytes(host)}: leave it out, or use a machine with more. --force tries it anyway."
        )
    if asked.least_bytes(used) <= available:
        return
    smaller = largest(used)
    ways = [f"use {spell(smaller)}"] if smaller else []
    if asked.peak_bytes(used, "tiled") <= available:
        ways.append("leave out --decode exact")
    if used == "none" and may_wait(asked):
        if asked.least_bytes("component") <= available:
            ways.append("add --offload component")
        elif (parted := largest("component")) not in (None, smaller):
            ways.append(f"use {spell(parted)} with --offload component")
    if workload.quantize is None and workload.family.quantized:
        lighter = replace(workload, quantize="fp8")
        light = _plan(lighter, cpu(1, available), 1, *_modules(lighter))
        if light.least_bytes(used) <= available:
            ways.append("add --quantize fp8")
        elif used == "none" and may_wait(light) and light.least_bytes("component") <= available:
            ways.append("add --offload component --quantize fp8")
    remedy = ", or ".join(ways) or "no size of it fits; use a device with more memory, or a smaller model"
    raise RequestError(
        f"{name} at {spell(workload.size)} needs {spell_bytes(asked.least_bytes(used))}, you have "
        f"{spell_bytes(available)}: {remedy}. --force tries it anyway."
    )


@dataclass(frozen=True)
class Decoding:
    """How a clip is decoded, and what a user should be told about it."""

    way: Way
    notices: tuple[str, ...] = ()


def refuse_tiles(family: Family, name: str, decode: Way | None) -> None:
    """Refuse tiles where the autoencoder of a family, which a model `name` is of, has none.

    Raises:
        RequestError: see above.
    """
    if decode == "tiled" and not issubclass(family.autoencoder, Tileable):
        raise RequestError(f"{name} decodes exactly and not in tiles. Leave out --decode tiled.")


def refuse_quantized(family: Family, name: str, quantize: Quantize | None) -> None:
    """Refuse eight bits where a family, which a model `name` is of, has no layers for them.

    Raises:
        RequestError: see above.
    """
    if quantize is not None and not family.quantized:
        raise RequestError(f"No layers of {name} are known to bear eight bits. Leave out --quantize {quantize}.")


def choose_decoding(
    autoencoder: Autoencoder, latents: Tensor, asked: Way | None = None, *, available: int | None = None
) -> Decoding:
    """Choose the exact way to decode if it fits now, else the published tiles, where there are some.

    Args:
        autoencoder: on the device where it will work.
        latents: what it will decode, there and of its type, B C t h w.
        asked: the way that was asked for, which is then taken.
        available: memory that it may take, in bytes; what the device can give now, if not given.
    """
    if asked is not None or not isinstance(autoencoder, Tileable):
        return Decoding(asked or "exact")
    module, likeness = cast(nn.Module, autoencoder), torch.empty_like(latents, device="meta")
    with resident(module, "meta"):
        needed = _decode(autoencoder, likeness).peak_bytes
    available = available_bytes(latents.device) if available is None else available
    if needed <= available:
        return Decoding("exact")
    told = f"exactly takes {spell_bytes(needed)}, and there are {spell_bytes(available)}"
    return Decoding("tiled", (f"decoded in the published tiles, which changes the picture a little: {told}",))


def spell(size: Size) -> str:
    """Write a size as height x width x frames."""
    return f"{size.height}x{size.width}x{size.num_frames}"


def spell_bytes(size_bytes: float) -> str:
    """Write a number of bytes in MB, GB or TB, of 10^6, 10^9 and 10^12 bytes, to three digits or so."""
    unit, name = next((pair for pair in UNITS if size_bytes >= 0.9995 * pair[0]), UNITS[-1])
    return f"{size_bytes / unit:.{0 if size_bytes >= 99.5 * unit else 1}f} {name}"


def count(run: Callable[[], object], held: Iterable[nn.Module] = ()) -> Count:
    """Run something and count what it takes.

    Args:
        run: what to run; on the meta device it costs no more than its bookkeeping.
        held: modules whose weights are there before it begins, and are not counted.
    """
    meter = _Meter()
    storages = [t.untyped_storage() for module in held for t in (*module.parameters(), *module.buffers())]
    meter.known = {id(storage) for storage in storages}
    with torch.no_grad(), meter, _FusedAttention(meter):
        run()
    return Count(
        meter.flops, meter.attention_flops, meter.convolution_flops, meter.attention_bytes, meter.moved, meter.peak
    )


class _Meter(TorchDispatchMode):
    """Sees every operation, and every tensor that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.attention_flops = self.convolution_flops = self.attention_bytes = self.moved = 0
        self.live = self.peak = 0
        self.known: set[int] = set()  # storages, which live as long as a tensor on them

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if operation := flop_registry.get(func.overloadpacket):
            flops = operation(*args, **kwargs, out_val=result)
            self.flops += flops
            self.convolution_flops += flops if func.overloadpacket is torch.ops.aten.convolution else 0
        is_new = [id(one.untyped_storage()) not in self.known for one in made]
        if any(is_new) or func._schema.is_mutable:  # else it made views, which cost nothing
            self.moved += sum(_extent(one) for one in (*read, *made))
        for one, new in zip(made, is_new, strict=True):
            if new:
                self._take(one.untyped_storage())
        return result

    def fused_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Answer for an attention without looking inside."""
        read = q.new_empty((*q.shape[:-1], v.shape[-1]))
        flops = 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        size = sum(_extent(one) for one in (q, k, v, read))
        self.flops += flops
        self.attention_flops += flops
        self.attention_bytes += size
        self.moved += size
        return read

    def _take(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._give_back, key, size)

    def _give_back(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


class _FusedAttention(TorchFunctionMode):
    """Keeps attention whole, where torch would take it apart on the meta device."""

    def __init__(self, meter: _Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.meter.fused_attention(*args[:3])
        return func(*args, **(kwargs or {}))


def _extent(tensor: Tensor) -> int:
    """Return the bytes behind a tensor; what is repeated by a stride of zero counts once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def _modules(workload: Workload) -> tuple[nn.Module, Any]:
    """Build network and autoencoder without their numbers."""
    with torch.device("meta"):
        network, autoencoder = workload.family.network(workload.config), workload.family.autoencoder()
    network.to(workload.dtype)
    if workload.quantize is not None:
        quantize_linears(network, workload.family.quantized)
    return network, autoencoder.to(workload.autoencoder_dtype)


def _plan(workload: Workload, hardware: Hardware, num_devices: int, network: nn.Module, autoencoder: Any) -> Plan:
    shape = _latents(workload, autoencoder)
    seen = shape._replace(t=workload.window or shape.t)
    latents = torch.empty(1, *shape, device="meta", dtype=workload.autoencoder_dtype)
    encoding = _encode(workload, autoencoder)
    encoder_bytes = workload.encoder_parameters * workload.dtype.itemsize
    return Plan(
        workload,
        hardware,
        num_devices,
        _tokens(workload, seen),
        Part("text encoder", workload.encoder_parameters, encoder_bytes, NOTHING),
        _part("network", network, _forward(workload, network, seen)),
        _part("autoencoder", autoencoder, _in_turn(encoding, _decode(autoencoder, latents))),
        _part("autoencoder, in tiles", autoencoder, _in_turn(encoding, _decode_tiled(autoencoder, latents)))
        if issubclass(workload.family.autoencoder, Tileable)
        else None,
    )


def _parameters(workload: Workload) -> int:
    """Return the parameters of the network, counted only if nobody has."""
    if workload.parameters is not None:
        return workload.parameters
    return sum(parameter.numel() for parameter in _modules(workload)[0].parameters())


def _most_tokens(workload: Workload) -> int:
    """Return more tokens than there are: no family makes one of fewer than 8 x 8 pixels."""
    return _extent_of(workload.size) // 64


def _tokens(workload: Workload, shape: LatentShape) -> int:
    frames, rows, columns = workload.config.patch_size
    return (shape.t // frames) * (shape.h // rows) * (shape.w // columns)


def _latents(workload: Workload, autoencoder: Autoencoder) -> LatentShape:
    """Return the shape of what is sampled, with the frames that are no part of the video."""
    autoencoder.latent_shape(*workload.size, workload.patch)  # refuses in the words of what was asked
    num_frames, height, width = workload.size
    num_frames += workload.family.dropped(workload.config)
    return autoencoder.latent_shape(num_frames, height, width, workload.patch)


def _smaller_sizes(workload: Workload, autoencoder: Autoencoder) -> list[Size]:
    """Return legal sizes of about the same shape, the least first."""
    num_frames, height, width = workload.size
    lengths = SHORTER if workload.window is None else (1,)  # a video that is made in windows is as long as it must be
    sizes = {
        autoencoder.nearest_size(round(num_frames * part), round(height * side), round(width * side), workload.patch)
        for part in lengths
        for side in SMALLER
    }
    return sorted(sizes, key=_extent_of)


def _largest_that_fits(sizes: Sequence[Size], needed: Callable[[Size], int], available: int) -> Size | None:
    """Return the largest size that fits, where the last does not; memory grows with the pixels nearly in proportion."""
    least, most = needed(sizes[0]), needed(sizes[-1])
    if least > available:
        return None
    slope = (most - least) / (_extent_of(sizes[-1]) - _extent_of(sizes[0]))
    likely = [size for size in sizes[:-1] if least + slope * (_extent_of(size) - _extent_of(sizes[0])) <= available]
    return next(size for size in reversed(likely) if needed(size) <= available)


def _extent_of(size: Size) -> int:
    return size.num_frames * size.height * size.width


def _forward(workload: Workload, network: nn.Module, shape: Sequence[int]) -> Count:
    """Count one call of the network for latents of a shape: all branches at once, as guidance makes it."""
    batch, config = workload.batch, workload.config
    text = TextTokens(  # real tensors, which are small: conditions read lengths off the mask
        torch.zeros(batch, workload.text_tokens, config.text_dim, dtype=workload.dtype),
        torch.ones(batch, workload.text_tokens, dtype=torch.bool),
        torch.zeros(batch, config.pooled_dim, dtype=workload.dtype),
    )
    num_frames, height, width = workload.size
    facts, example = [Facts(height, width, num_frames)] * batch, workload.family.example
    condition = workload.family.condition(text, facts) if example is None else example(config, text, facts, shape[1:])
    x = torch.empty(batch, config.latent_channels, *shape[1:], device="meta", dtype=workload.dtype)
    t = torch.empty(batch, device="meta")
    return count(lambda: network(x, t, condition.to("meta")), [network])


def _encode(workload: Workload, autoencoder: Any) -> Count:
    """Count the encoding of what is known before sampling."""
    if not workload.encoded:
        return NOTHING
    _, height, width = workload.size
    shape = 1, 3, workload.encoded, height, width
    dtype = workload.autoencoder_dtype
    return count(lambda: autoencoder.encode(torch.empty(shape, device="meta", dtype=dtype)), [autoencoder])


def _in_turn(one: Count, other: Count) -> Count:
    """Count two runs, one after the other."""
    peak = max(one.peak_bytes, other.peak_bytes)
    sums = (getattr(one, field.name) + getattr(other, field.name) for field in fields(Count))
    return replace(Count(*sums), peak_bytes=peak)


def _decode(autoencoder: Any, latents: Tensor) -> Count:
    """Count the decoding of all frames, each group given away before the next."""

    def run() -> None:
        for _ in autoencoder.decode_stream(latents):
            pass

    return count(run, [autoencoder])


def _decode_tiled(autoencoder: Any, latents: Tensor) -> Count:
    """Count the same in tiles; the first tile is run, and the others take their share of what it took."""
    first: list[tuple[torch.Size, torch.Size, Count]] = []  # what it was, what it made, and what that took
    shares = []

    def counted_alone(tile: Tensor) -> tuple[torch.Size, torch.Size, Count]:
        made: list[Tensor] = []
        alone = tile.new_empty(tile.shape)  # a view of the clip would count as the clip
        counted = count(lambda: made.append(autoencoder.pixels(alone)), [autoencoder])
        return tile.shape, made[0].shape, counted

    def run(tile: Tensor) -> Tensor:
        if not first:
            first.append(counted_alone(tile))
        (_, _, t, h, w), (_, colours, frames, height, width), counted = first[0]
        growth = (frames - 1) // max(1, t - 1)  # of the frames behind the first, which stands alone
        grown = 1 + growth * (tile.shape[2] - 1), tile.shape[3] * (height // h), tile.shape[4] * (width // w)
        shares.append(math.prod(grown) / (frames * height * width))
        worked = torch.empty(round(shares[-1] * counted.peak_bytes), dtype=torch.uint8, device="meta")
        del worked
        return tile.new_empty(len(tile), colours, *grown)

    def decode() -> None:
        for _ in autoencoder.decode_tiled(latents, run):
            pass

    whole, tile, times = count(decode, [autoencoder]), first[0][2], sum(shares)
    return replace(
        whole,
        flops=round(times * tile.flops),
        attention_flops=round(times * tile.attention_flops),
        convolution_flops=round(times * tile.convolution_flops),
    )


def _part(name: str, module: nn.Module, count: Count) -> Part:
    tensors = [*module.parameters(), *module.buffers()]
    return Part(name, num_parameters(module), sum(tensor.nbytes for tensor in tensors), count)
