"""What is known of a model without its weights, printed: all of them, one of them, and what a video would cost."""

import os
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mutoscope import plan
from mutoscope.core.device import available_bytes
from mutoscope.core.errors import RequestError
from mutoscope.encoders.words import MARKS, Words
from mutoscope.loading import Loading, outline
from mutoscope.models.family import Family, families
from mutoscope.models.family import load as load_family
from mutoscope.pipeline import BUNDLED, ENCODER, Outline, Request, workload
from mutoscope.placement.offload import Offload
from mutoscope.placement.quantize import Quantize
from mutoscope.plan import HARDWARE, Hardware, Part, Plan, Way, Workload, spell, spell_bytes
from mutoscope.tasks import avatar

# What shares a device and how it decodes, in the order in which they change less; and how a user is told.
WAYS: tuple[tuple[Offload, Way, str], ...] = (
    ("none", "exact", ""),
    ("none", "tiled", "decoded in tiles, as generate will do"),
    ("component", "exact", "with --offload component"),
    ("component", "tiled", "with --offload component and decoded in tiles, as generate will do"),
)
GIVEN = {"none": "none", "first": "first frame", "any": "any frames"}


def print_models() -> None:
    """Print a table of all models: size, what they accept, and where their weights are."""
    table = Table(title="Models", title_justify="left")
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "conditioning frames", "weights"):
        table.add_column(column, overflow="fold")
    for name in families():
        family = load_family(name)
        for preset, parameters in family.parameters.items():
            if (BUNDLED / f"{name}_{preset}.safetensors").exists():
                weights = "bundled"
            elif family.release is not None and preset in family.release.weights:
                weights = "published"
            else:
                weights = "none yet: train it"
            table.add_row(f"{name}/{preset}", _count(parameters), _given(family), weights)
    Console().print(table)
    print("`mutoscope info NAME` tells where published weights are, and on what terms.")


def print_info(name: str) -> None:
    """Print what a model is, what it needs, and where its weights are and on what terms.

    Args:
        name: see `loading.load`.
    """
    found = outline(name)
    table = _table(f"{found.family.name}/{found.preset}" if found.preset else name)
    made = None if found.size is None else plan.plan(_workload(found, Request("")), HARDWARE["h200"])
    if made is None or found.size is None:
        with torch.device("meta"):
            network = found.family.network(found.config)
        table.add_row("parameters", _count(sum(parameter.numel() for parameter in network.parameters())))
        table.add_row("size", "none of its own: ask mutoscope plan with --height, --width and --num-frames")
    else:
        table.add_row("parameters", _parameters(made))
        table.add_row("default size", f"{spell(made.workload.size)}, {float(found.size.fps):g} frames a second")
        table.add_row("tokens", f"{made.tokens:,} of video")
        table.add_row("needs", _needs(made))
    sampling = found.sampling
    again = f" and {sampling.restarts.count} restarts" if sampling.restarts else ""
    guided = f"guidance {sampling.guidance.text_scale:g}, shift {sampling.shift:g}"
    table.add_row("sampling", f"{sampling.steps} steps of {sampling.sampler}{again}, {guided}")
    table.add_row("conditioning frames", _given(found.family))
    if found.path is not None and issubclass(found.family.encoder, Words):
        table.add_row("words", _words(found.path))
    for label, text in _whereabouts(found):
        table.add_row(label, text)
    Console().print(table)


def print_plan(
    name: str,
    request: Request,
    hardware: str,
    num_devices: int,
    *,
    has_image: bool,
    loading: Loading = Loading(),
) -> None:
    """Print what a video costs on some devices.

    Args:
        name: see `loading.load`.
        request: size and sampling; its prompt does not matter.
        hardware: a name of `plan.HARDWARE`, or "cpu" for this machine.
        num_devices: how many.
        has_image: whether a picture will be given.
        loading: its weights, and how they are kept.
    """
    found, quantize = outline(name, loading), loading.quantize
    work = _workload(found, request, has_image=has_image, on_cpu=hardware == "cpu", quantize=quantize)
    made = plan.plan(work, _hardware(hardware), num_devices)
    device = made.hardware
    kept = f" in {quantize}" if quantize else ""
    there = f"{num_devices} x {device.name}, {spell_bytes(device.memory_bytes)}"
    table = _table(f"{name}{kept} at {spell(work.size)} on {there}")
    flops = made.network.count
    total = flops.flops * work.num_calls
    coding = "to encode the picture and to decode" if work.encoded else "to decode"
    table.add_row("parameters", _parameters(made))
    windows = f" in each of {work.windows} windows" if work.windows > 1 else ""
    text = f"{work.text_tokens} of text, in a batch of {work.batch}"
    table.add_row("tokens", f"{made.tokens:,} of video{windows}, {text}")
    table.add_row(
        "FLOPs",
        f"{_flops(made.step_flops)} a step, {flops.attention_flops / flops.flops:.0%} of it attention; "
        f"{_flops(total)} in {work.num_steps} steps; {_flops(made.autoencoder.count.flops)} {coding}",
    )
    table.add_row(
        "bytes",
        f"{spell_bytes(made.network.weight_bytes)} of weights read a step; {spell_bytes(flops.moved_bytes)} moved "
        "if no two operations were fused",
    )
    for part in (*made.parts, *([made.tiled] if made.tiled else [])):
        table.add_row(f"memory, {part.name}", _memory(made, part))
    table.add_row("memory at most", _needs(made))
    table.add_row(
        "time",
        f"{_seconds(made.floor_s)} at least; {_seconds(made.expected_s)} expected, {_seconds(made.decode_s)} of it "
        f"{coding}, and {_seconds((made.expected_s - made.decode_s) / work.num_steps)} a step",
    )
    Console().print(table)
    fitting = [words for offload, way, words in WAYS if made.peak_bytes(offload, way) <= device.memory_bytes]
    if not fitting:
        tried = "with --offload component" + (" and decoded in tiles" if made.tiled else "")
        Console().print(f"It does not fit {device.name}, not even {tried}.")
    elif fitting[0]:
        Console().print(f"It fits {device.name} {fitting[0]}.")


def _workload(
    found: Outline,
    request: Request,
    *,
    has_image: bool = False,
    on_cpu: bool = False,
    quantize: Quantize | None = None,
) -> Workload:
    """Say what a request comes to; a model that makes somebody speak is always given a picture."""
    speaks = found.family.speaks
    work = workload(found, request, has_image=has_image and not speaks, on_cpu=on_cpu, quantize=quantize)
    return avatar.in_windows(work) if speaks else work


def _whereabouts(found: Outline) -> list[tuple[str, str]]:
    """Say where weights come from, and whose terms they are under."""
    if found.path is not None:
        return [("weights", f"bundled with this package: {found.path}" if found.preset else str(found.path))]
    if found.release is None:
        return [("weights", "none published: train it with mutoscope train")]
    places = found.release.weights[str(found.preset)]
    return [
        ("weights", "\n".join(places)),
        ("licence", f"{found.release.licence}, {found.release.url}"),
    ]


def _given(family: Family) -> str:
    return GIVEN[family.accepts.given] + (", always" if family.accepts.needs_first else "")


def _words(path: Path) -> str:
    """List the words that a model with a vocabulary of its own knows; Chinese ones are spelt with single characters."""
    beside = path.with_name(ENCODER)
    vocabulary = Words.load(beside if beside.exists() else BUNDLED / ENCODER).tokenizer.vocabulary
    western = [word for word in vocabulary if word.isascii() and word not in MARKS]
    chinese = "".join(word for word in vocabulary if not word.isascii())
    return f"{', '.join(western)}; {chinese}"


def _hardware(name: str) -> Hardware:
    if name == "cpu":
        return plan.cpu(os.cpu_count() or 1, available_bytes("cpu"))
    if name not in HARDWARE:
        raise RequestError(
            f"hardware {name!r} is not known. There are {', '.join(HARDWARE)}, and cpu for this machine."
        )
    return HARDWARE[name]


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _parameters(made: Plan) -> str:
    return ", ".join(f"{_count(part.parameters)} {part.name}" for part in made.parts if part.parameters)


def _memory(made: Plan, part: Part) -> str:
    work = made.work_bytes(part)
    return f"{spell_bytes(part.weight_bytes)} of weights" + (f", {spell_bytes(work)} to work with" if work else "")


def _needs(made: Plan) -> str:
    whole, parted = made.peak_bytes("none"), made.peak_bytes("component")
    told = f"{spell_bytes(whole)} with all components on the device, {spell_bytes(parted)} with --offload component"
    if made.tiled is None:
        return told
    whole, parted = made.peak_bytes("none", "tiled"), made.peak_bytes("component", "tiled")
    return f"{told}; decoded in tiles {spell_bytes(whole)} and {spell_bytes(parted)}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _flops(flops: int) -> str:
    for unit, name in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if flops >= unit:
            return f"{flops / unit:.2f} {name}"
    return f"{flops / 1e6:.2f} MFLOP"


def _seconds(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
