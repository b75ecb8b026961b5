"""The command line: parse, call one function below, print one line.

Everything heavy is imported inside the command that needs it, so that `mutoscope --help` answers at once. What a user
can put right ends as one line on stderr and exit code 2.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

import mutoscope
from mutoscope.apps.ranges import checked
from mutoscope.core.errors import MutoscopeError, RequestError

if TYPE_CHECKING:
    from mutoscope.loading import Loading
    from mutoscope.pipeline import Request

Fit = Literal["exact", "crop", "pad"]
Renormalise = Literal["sample", "frame", "token", "none"]
# Options that have no fixed default: the help shows their type and leaves "None" out.
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
OptionalRenormalise = Annotated[Renormalise | None, arg(help_behavior_hint="")]
OptionalWay = Annotated[Literal["exact", "tiled"] | None, arg(help_behavior_hint="")]
OptionalQuantize = Annotated[Literal["fp8"] | None, arg(help_behavior_hint="")]
OptionalText = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]


@dataclass(frozen=True)
class Sampling:
    """How a video is sampled.

    Args:
        steps: Sampling steps; the model's own number if not given, as for the options down to restarts.
        guidance: Guidance scale, for the prompt and the conditioning frames; 1 is as trained.
        image_guidance: Guidance scale for the conditioning frames, if not that of the prompt.
        renormalise: Keep the length of the guided velocity over each sample, frame or token; none lets it grow.
        sampler: euler, heun or adams_bashforth.
        shift: Timestep shift: above 1 more steps are spent near noise; 1 spaces them evenly.
        restarts: How often to go back towards noise and come down again, each time some more steps; 0 for never.
        seed: Of the noise; the same seed gives the same file on the same machine.
    """

    steps: OptionalInt = None
    guidance: OptionalFloat = None
    image_guidance: OptionalFloat = None
    renormalise: OptionalRenormalise = None
    sampler: OptionalText = None
    shift: OptionalFloat = None
    restarts: OptionalInt = None
    seed: int = 0

    def request(self) -> "Request":
        """Return a request with an empty prompt, sampled like this."""
        from mutoscope.pipeline import Request

        return Request(
            "",
            steps=self.steps,
            guidance=self.guidance,
            image_guidance=self.image_guidance,
            renormalise=self.renormalise,
            sampler=self.sampler,
            shift=self.shift,
            restarts=self.restarts,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Weights:
    """Where the parts of a model are, and how it is kept in memory.

    Args:
        device: cpu, cuda, mps; the best there is, if not given.
        weights: Weights of the network, if not to come from the hub: a file (safetensors, GGUF, .pt), a folder with it
            or with the whole release, or hub:OWNER/NAME. Parts beside it are used; those that are not there come from
            the hub.
        vae: Weights of the autoencoder: a file, or a folder with it.
        text_encoders: Folder that holds text_encoder, text_encoder_2 and the like, as released.
        entry: Which weights to take of a file that holds several, such as ema.
        template: File with the prompt template, for published models whose template does not come with this package.
        offload: component keeps each of network, autoencoder and text encoder on the device only while it is used.
        quantize: fp8 keeps the weights of the network's linear layers in eight bits, which changes the video and needs
            about half their memory.
        decode: exact, or in the published tiles (tiled), which changes the picture a little and needs less memory; if
            not given, exact where that fits.
    """

    device: OptionalText = None
    weights: OptionalText = None
    vae: OptionalText = None
    text_encoders: OptionalText = None
    entry: OptionalText = None
    template: OptionalPath = None
    offload: Literal["none", "component"] = "none"
    quantize: OptionalQuantize = None
    decode: OptionalWay = None

    def loading(self) -> "Loading":
        """Return the same as the package takes it."""
        from mutoscope.loading import Loading

        return Loading(**vars(self))


# Options of a dataclass stand on the command line like those of the command itself.
SharedSampling = Annotated[Sampling, arg(name="")]
SharedWeights = Annotated[Weights, arg(name="")]


def generate(
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")],
    /,
    model: str = "stiv/toy",
    image: OptionalPath = None,
    last_image: OptionalPath = None,
    video: OptionalPath = None,
    fit: Fit = "exact",
    num_frames: OptionalInt = None,
    height: OptionalInt = None,
    width: OptionalInt = None,
    fps: OptionalFloat = None,
    sampling: SharedSampling = Sampling(),
    count: int = 1,
    out: Path = Path("outputs"),
    weights: SharedWeights = Weights(),
    force: Annotated[bool, FlagCreatePairsOff] = False,
    negative: OptionalText = None,
    audio: OptionalPath = None,
    face_box: OptionalText = None,
    face_detector: OptionalPath = None,
    skip_steps: Annotated[bool, FlagCreatePairsOff] = False,
    overwrite: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Generate videos from a prompt, and from conditioning images or a clip if there are any.

    Args:
        prompt: What the video should show, in English or Chinese.
        model: family/preset of a bundled or published model, or a weights file that training wrote.
        image: Image that becomes the first frame.
        last_image: Image that becomes the last frame.
        video: Clip to continue: its last four frames become the first four.
        fit: What to do with an image of another size: refuse it (exact), scale and cut the edges (crop), or scale and
            add grey edges (pad).
        num_frames: Frames; the model's own number if not given, as for the three options below.
        height: Pixels.
        width: Pixels.
        fps: Frames a second, as played.
        sampling: How the video is sampled.
        count: How many videos, with seeds seed, seed + 1, ...
        out: Folder, or a file ending in .mp4, .mov, .mkv, .webm, .gif or .png.
        weights: Where the parts of the model are, and how it is kept.
        force: Try what has no room on the device, and what the bundled model does not know.
        negative: Negative prompt: what guidance leads away from.
        audio: Speech for the avatar in --image, for avatar models.
        face_box: Face of the avatar in the image, as LEFT,TOP,RIGHT,BOTTOM in pixels; the whole image follows the
            speech if neither this nor --face-detector is given.
        face_detector: File of a detector that finds the largest face in the image: YuNet, as ONNX.
        skip_steps: With --audio, compute only a part of the network in some steps; faster, and not quite the same.
        overwrite: Let the file that --out names replace another.
    """
    from fractions import Fraction

    from mutoscope.apps import jobs

    request = replace(
        sampling.request(),
        prompt=prompt,
        num_frames=num_frames,
        height=height,
        width=width,
        fps=None if fps is None else Fraction(fps).limit_denominator(1001),
        negative=negative,
    )
    job = jobs.GenerateJob(
        request,
        model,
        image,
        last_image,
        video,
        fit,
        count,
        out,
        weights.loading(),
        force,
        audio,
        jobs.face_box(face_box),
        skip_steps,
        face_detector,
        overwrite,
    )
    for path in jobs.generate(job):
        print(path)


def demo(out: Path = Path("outputs/demo"), device: OptionalText = None) -> None:
    """Generate a few videos from the bundled weights and say where they are.

    Args:
        out: Folder to write to.
        device: cpu, cuda, mps; the best there is, if not given.
    """
    from mutoscope.apps import demo as demonstration

    videos, sheet = demonstration.demo(out, device)
    print(f"{len(videos)} videos are in {out}; {sheet} shows them all")
    print(f"next: {demonstration.next_command()}")


def models() -> None:
    """List the models, their sizes, and where their weights are."""
    from mutoscope.apps import about

    about.print_models()


def info(model: Annotated[Positional[str], arg(metavar="MODEL")], /) -> None:
    """Describe a model: its size, what it needs, where its weights are and under which licence.

    Args:
        model: family/preset, or a weights file that training wrote.
    """
    from mutoscope.apps import about

    about.print_info(model)


def plan(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    /,
    height: OptionalInt = None,
    width: OptionalInt = None,
    num_frames: OptionalInt = None,
    hardware: Literal["h200", "h100", "a100", "l40s", "rtx4090", "npu-64gb", "cpu"] = "h200",
    gpus: int = 1,
    steps: OptionalInt = None,
    guidance: OptionalFloat = None,
    sampler: OptionalText = None,
    restarts: OptionalInt = None,
    with_picture: Annotated[bool, FlagCreatePairsOff] = False,
    weights: OptionalText = None,
    quantize: OptionalQuantize = None,
) -> None:
    """Estimate what a video would cost: FLOPs, memory and time. No weights are needed.

    Args:
        model: family/preset, or a weights file that training wrote.
        height: Pixels; the model's own number if not given, as for the options below.
        width: Pixels.
        num_frames: Frames.
        hardware: Device to plan for; cpu is this machine.
        gpus: How many of them share the work.
        steps: Sampling steps.
        guidance: Guidance scale; 1 is as trained.
        sampler: euler, heun or adams_bashforth.
        restarts: How often to go back towards noise, which takes some more steps each time.
        with_picture: Plan for a video with a conditioning image.
        weights: Plan for these weights of the network, whose config.json may say another size.
        quantize: Plan with the weights of the network's linear layers in eight bits: fp8.
    """
    from mutoscope.apps import about
    from mutoscope.loading import Loading
    from mutoscope.pipeline import Request

    request = Request(
        "",
        height=height,
        width=width,
        num_frames=num_frames,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        restarts=restarts,
    )
    loading = Loading(weights=weights, quantize=quantize)
    about.print_plan(model, request, hardware, gpus, has_image=with_picture, loading=loading)


def convert(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    source: Annotated[Positional[str], arg(metavar="SRC")],
    out: Annotated[Positional[Path], arg(metavar="DST")],
    /,
    layout: Literal["official", "diffusers", "mutoscope"],
    component: Literal["transformer", "autoencoder"] = "transformer",
    shard_size_gb: float = 4.0,
    entry: OptionalText = None,
) -> None:
    """Write weights under the names that another code gives them, as safetensors.

    Args:
        model: family/preset that the weights were made for.
        source: File or folder of weights in any layout, or hub:OWNER/NAME.
        out: A new folder, or a file ending in .safetensors.
        layout: Whose names to write.
        component: Which network of the model.
        shard_size_gb: What a file in the folder may weigh at most, in GB.
        entry: Which weights to take of a file that holds several, such as module or ema.
    """
    from mutoscope.apps import conversion
    from mutoscope.loading import Loading

    loading = Loading(weights=source, entry=entry)
    job = conversion.ConvertJob(model, loading, out, layout, component, shard_size_gb)
    files, found = conversion.convert(job)
    print(f"{out}: {len(files)} files, from the {found} layout to {layout}")


def train(
    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")],
    /,
    out: Path,
    override: Annotated[tuple[str, ...], arg(name="set")] = (),
    device: OptionalText = None,
    workers: int = 0,
) -> None:
    """Train by a recipe; the same command goes on where a run was stopped.

    Args:
        recipe: A recipe file (.py), or the resolved recipe (.json) beside an earlier run.
        out: Folder of the run.
        override: Changes to the recipe, such as phases.0.steps=100.
        device: cpu, cuda, mps; the best there is, if not given.
        workers: Processes that make batches, for small models on a fast GPU; 0 takes a thread.
    """
    from mutoscope.core import config
    from mutoscope.core.device import find_device
    from mutoscope.train.loop import run
    from mutoscope.train.recipe import Recipe

    found = config.override(config.load_recipe(recipe, Recipe), override)
    weights = run(found, out, device=find_device(device), workers=workers)
    print(f"trained: {weights}")


def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    /,
    suite: Literal["world"] = "world",
    out: OptionalPath = None,
    sets: tuple[str, ...] = (),
    limit: OptionalInt = None,
    batch_size: int = 16,
    sampling: SharedSampling = Sampling(),
    weights: SharedWeights = Weights(),
) -> None:
    """Measure a model; the same command goes on where a measurement was stopped.

    Args:
        model: family/preset of a bundled model, or a weights file that training wrote.
        suite: What to measure. world: prompts of the procedural world, judged from pixels by its oracle.
        out: Folder for samples and result; outputs/evaluate/MODEL if not given.
        sets: Parts of the suite; all that make up its main figures if not given.
        limit: Samples of each part, to try the command out.
        batch_size: Clips sampled at once.
        sampling: How the clips are sampled.
        weights: Where the parts of the model are, and how it is kept.
    """
    from contextlib import ExitStack

    from mutoscope.core.log import Progress, progress
    from mutoscope.evaluate import report
    from mutoscope.evaluate.suite import run_world
    from mutoscope.loading import load

    system = load(model, loading=weights.loading())
    out = out or Path("outputs/evaluate") / Path(model).with_suffix("").as_posix().replace("/", "-")
    with ExitStack() as shown:
        bars: list[Progress] = []  # made when the suite first says how much there is to do

        def on_progress(done: int, total: int) -> None:
            if not bars:
                bars.append(shown.enter_context(progress(total, "judged")))
            bars[0].advance(done - bars[0].done)

        result = run_world(
            system,
            out,
            sets=sets,
            limit=limit,
            batch_size=batch_size,
            sampling=sampling.request(),
            on_progress=on_progress,
        )
    report.show(result)
    print(out / "result.json")


def curate(
    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE")],
    /,
    out: Path,
    recipe: OptionalPath = None,
    override: Annotated[tuple[str, ...], arg(name="set")] = (),
    workers: OptionalInt = None,
    engine: Literal["local", "ray"] = "local",
    prune: bool = False,
) -> None:
    """Make a data set of videos and images: clips in tar shards, and a page that says what was dropped and why.

    The same command goes on where a run was stopped; a changed recipe does again only what the change touches.

    Args:
        sources: Files, folders, globs, URLs (http, s3, gs), lists (.txt) or tables (.csv, .jsonl, .parquet).
        out: Folder of the data set.
        recipe: A recipe file (.py), or the resolved recipe (.json) beside an earlier data set; a careful one for
            videos of one's own if not given.
        override: Changes to the recipe, such as write.shard_clips=64.
        workers: Processes; one per core if not given.
        engine: local, or ray for a cluster.
        prune: At the end remove from OUT/work what this run did not use: results for other sources and settings.
    """
    from mutoscope.apps import curation

    for line in curation.curate(curation.CurateJob(sources, out, recipe, override, workers, engine, prune)):
        print(line)


def vote(
    what: Positional[Literal["thresholds"]],
    dataset: Annotated[Positional[Path], arg(metavar="SET")],
    /,
    column: str,
    bins: int = 5,
    votes: OptionalPath = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    report: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Choose the limit of a filter by votes: a page shows two clips again and again, and people say which is better.

    Ends with Ctrl-C, and says which limit the votes stand for. The same command goes on with the votes that are there.

    Args:
        what: thresholds: clips of one bin of a score against clips of another.
        dataset: Folder that mutoscope curate wrote.
        column: Score to choose a limit for, a column of SET/clips.parquet such as softness.
        bins: Parts of about as many clips each that the score is cut into.
        votes: File of votes, to which several people may add at a time; SET/votes/COLUMN.jsonl if not given.
        host: Address to listen on; 0.0.0.0 lets other machines in, and everybody who reaches it sees the clips.
        port: Port to listen on.
        report: Say what the votes tell so far, and show no page.
    """
    from mutoscope.apps import voting

    job = voting.VoteJob(dataset, column, bins, host, port, votes)
    if not report:
        with voting.serve(job) as server:
            for line in server.lines():
                print(line, flush=True)
            with suppress(KeyboardInterrupt):
                server.serve_forever()
        print()
    for line in voting.report(job):
        print(line)


def world(
    what: Positional[Literal["clips", "footage"]],
    /,
    out: Path,
    count: int = 16,
    seed: int = 0,
    height: OptionalInt = None,
    width: OptionalInt = None,
    split: Literal["train", "held_out", "any"] = "train",
    defects: str = "all",
    share: float = 0.5,
    clips: OptionalPath = None,
    duplicates: int = 0,
) -> None:
    """Write examples of the procedural world, with captions and exact truth.

    Args:
        what: clips: one scene each, 16 frames of 64x64. footage: long raw videos of many shots, 320x240, with cuts,
            dissolves, wipes, fades and defects, each with its truth in a JSON file.
        out: Folder to write to.
        count: How many.
        seed: Of the first; the others count up from it.
        height: Pixels.
        width: Pixels.
        split: Which attribute combinations to draw from.
        defects: Footage: all, none, or a list of caption, logo, border, blur, freeze, flash, rate, each with a strength
            from 0 to 1 where it is not 1, as in caption,blur=0.3.
        share: Footage: in how many of the videos each defect occurs, from 0 to 1.
        clips: Footage: a folder of real clips without cuts, or with a MANIFEST.csv that names them; most shots are then
            taken from it.
        duplicates: Footage: how many copies of the videos to add, at other sizes and qualities.
    """
    from mutoscope.worlds import footage
    from mutoscope.worlds.spoil import Strengths

    if what == "clips" and (defects, share, clips, duplicates) != ("all", 0.5, None, 0):
        raise RequestError("--defects, --share, --clips and --duplicates are for footage. Leave them out for clips.")
    if what == "clips":
        footage.write_clips(out, count, seed, (height or 64, width or 64), 16, split)
    else:
        strengths = Strengths.parse(defects, share)
        size = height or 240, width or 320
        footage.write_footage(out, count, seed, size, split, strengths=strengths, clips=clips, duplicates=duplicates)
    print(f"{out}: {count + duplicates} videos, with what they show")


COMMANDS = {
    "generate": generate,
    "demo": demo,
    "models": models,
    "info": info,
    "plan": plan,
    "convert": convert,
    "train": train,
    "evaluate": evaluate,
    "curate": curate,
    "vote": vote,
    "world": world,
}


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] == ["--version"]:
        print(f"mutoscope {mutoscope.__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            {name: checked(command) for name, command in COMMANDS.items()},
            prog="mutoscope",
            description="One package for the whole life of a video generator. --version prints its version.",
        )
    except MutoscopeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("Stopped. Nothing half-written was left behind.")


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
