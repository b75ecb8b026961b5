"""The job behind `mutoscope convert`: write weights under the names of another layout."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mutoscope.core import config, layouts, places
from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.layouts import Layout
from mutoscope.core.log import progress
from mutoscope.core.tensors import Checkpoint
from mutoscope.core.weights import Key, few
from mutoscope.loading import Loading, config_of
from mutoscope.models.family import find

Component = Literal["transformer", "autoencoder"]


@dataclass(frozen=True)
class ConvertJob:
    """Which weights to write under other names.

    Args:
        model: family and preset that they were made for.
        loading: where they are (its `weights`), and which of several (its `entry`).
        out: a new folder, or a file ending in .safetensors.
        layout: whose names to write.
        component: which of the model's networks.
        shard_gb: what a file may weigh at most, in GB of 10^9 bytes; a file that was named takes all.
    """

    model: str
    loading: Loading
    out: Path
    layout: Layout
    component: Component = "transformer"
    shard_gb: float = 4.0


def convert(job: ConvertJob, *, quiet: bool = False) -> tuple[list[Path], str]:
    """Write weights under the names of another layout.

    Args:
        job: which, and where to.
        quiet: show no progress.

    Returns:
        The files, and the layout that the weights had.

    Raises:
        RequestError, WeightsError: for whatever is wrong with the job, before anything is written.
    """
    if job.shard_gb <= 0:
        raise RequestError(f"shard_size_gb={job.shard_gb} holds nothing. Give a number above 0.")
    if job.loading.weights is None:
        raise RequestError("There is nothing to convert. Name the file or the folder of the weights.")
    source = places.part_in(job.loading.weights, job.component)
    checkpoint = open_checkpoint(source, within=layouts.FOLDERS[job.component], entry=job.loading.entry)
    network, published, settings = _component(job.model, job.component, replace(checkpoint, metadata={}))
    keys = {**published, "mutoscope": [Key(name, (name,)) for name in network]}
    if job.layout not in keys:
        raise RequestError(f"The {job.component} of {job.model} has no {job.layout} layout. It has: {', '.join(keys)}.")
    match = layouts.recognise(checkpoint, network, published, what=f"the {job.component} of {job.model}")
    own = {"model": job.model, "component": job.component, "config": settings}
    if match.layout == "mutoscope":
        _refuse_other_config(job, checkpoint.metadata, settings)
        own |= checkpoint.metadata
    target = keys[job.layout]
    with progress(sum(len(key.theirs) for key in target), "written", quiet=quiet) as bar:
        files = layouts.convert(
            match,
            target,
            job.layout,
            job.out,
            metadata=own if job.layout == "mutoscope" else {},
            shard_bytes=int(job.shard_gb * 1e9),
            on_tensor=lambda: bar.advance(1),
        )
    return files, match.layout


def _component(
    model: str, component: Component, checkpoint: Checkpoint | None = None
) -> tuple[dict[str, layouts.Header], Mapping[str, Sequence[Key]], str]:
    """Return the tensors of a component, their published names, and its config as JSON; no memory is taken."""
    family, preset = find(model)
    settings = preset if checkpoint is None else config_of(family, preset, checkpoint)
    with torch.device("meta"):
        network: Any = family.network(settings) if component == "transformer" else family.autoencoder()
    keys = family.keys if component == "transformer" else getattr(inspect.getmodule(family.autoencoder), "keys", None)
    published = {} if keys is None else keys(network.config)
    return layouts.headers_of(network), published, json.dumps(config.to_json(network.config))


def _refuse_other_config(job: ConvertJob, metadata: Mapping[str, str], settings: str) -> None:
    """Refuse weights of ours that say that they were made for another network, though all shapes agree."""
    given, needed = json.loads(metadata.get("config", settings)), json.loads(settings)
    if differing := sorted(name for name in {*given, *needed} if given.get(name) != needed.get(name)):
        raise WeightsError(
            f"{job.loading.weights} was made for another {job.component} than that of {job.model}: they differ in "
            f"{few(differing)}. Name the model that it was made for."
        )
