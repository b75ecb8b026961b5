"""Whisper as an ear: what a network hears around each frame of a video.

    voice, mono, 16 kHz   -> mel spectrogram, 100 columns a second, always of 30 s
                          -> Whisper's encoder, 50 rows a second; of every layer, its embedding included
    video frame f         <- the 10 rows around it, 2 s f - 4 to 2 s f + 5, where s = 25 / fps; zeros where there are
                             none: audio B F 10 5 384

Weights: openai/whisper-tiny (Apache 2.0), of which the decoder is not read. The network is that of `transformers`.

Ours differs in what it does with long voices. The published code cuts them after 400 video frames, and never hears what
lies behind 30 s. Here a voice may last the 30 s that Whisper hears, and one that is longer is refused.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.video import Audio
from mutoscope.encoders.pretrained import load_config, load_network, needs_transformers

RATE = 16_000  # Hz, of the sound that Whisper was trained on
LONGEST_S = 30  # seconds of sound that it hears at once
COLUMNS = 3000  # of the spectrogram of so much sound
WINDOW, BEFORE = 10, 4  # rows around a video frame, and how many of them are before its own first
ROWS_PER_FRAME = {Fraction(25): 2, Fraction(25, 2): 4}  # by frames a second; 50 rows a second


class Ear(nn.Module):
    """The frozen encoder of a Whisper.

    Args:
        network: `WhisperEncoder` of `transformers`.
        spectrum: its feature extractor; None to encode spectrograms only.
    """

    def __init__(self, network: nn.Module, spectrum: Any = None) -> None:
        super().__init__()
        self.network: Any = network
        self.spectrum = spectrum

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype | None = None) -> "Ear":
        """Read an ear from the folder of a Whisper, of which the decoder stays unread.

        Args:
            folder: with config, weights, and the numbers of the feature extractor.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: the folder does not hold what it should.
        """
        with needs_transformers("Whisper"):
            from transformers import WhisperFeatureExtractor
            from transformers.models.whisper.modeling_whisper import WhisperEncoder
        config = load_config(folder)
        network = load_network(
            WhisperEncoder,
            folder,
            config,
            unread=r"(model\.)?decoder\.|proj_out\.",
            renamed={r"^(model\.)?encoder\.": ""},
            dtype=dtype,
        )
        if not (folder / "preprocessor_config.json").is_file():
            return cls(network)
        return cls(network, WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True))

    def forward(
        self, mel: Float[Tensor, "B mel columns"], num_frames: int, fps: Fraction = Fraction(25)
    ) -> Float[Tensor, "B F window layers Da"]:
        """Return what is heard around each video frame.

        Args:
            mel: spectrograms of 30 s.
            num_frames: F, video frames from the beginning on.
            fps: video frames a second, 25 or 12.5.

        Raises:
            RequestError: for another rate.
        """
        stride = _rows_per_frame(fps)
        states = self.network(mel.to(self.network.dtype), output_hidden_states=True).hidden_states
        rows = torch.stack(states, dim=2)
        first = stride * torch.arange(num_frames, device=rows.device)
        missing = stride * (num_frames - 1) + WINDOW - BEFORE - rows.shape[1]
        rows = F.pad(rows, (0, 0, 0, 0, BEFORE, max(0, missing)))
        return rows[:, first[:, None] + torch.arange(WINDOW, device=rows.device)]

    def encode(self, voice: Audio, fps: Fraction = Fraction(25)) -> Float[Tensor, "1 F window layers Da"]:
        """Return what is heard around each video frame of a clip that is as long as a voice.

        Args:
            voice: at least a video frame and at most 30 s long, of any rate and any number of channels.
            fps: video frames a second, 25 or 12.5.

        Raises:
            RequestError: the voice is too short or too long, or the rate is another.
        """
        samples = samples_of(voice)
        num_frames = frames_in(samples, fps)
        if self.spectrum is None:
            raise WeightsError("This Whisper came without preprocessor_config.json. Download its folder again.")
        mel = self.spectrum(samples, sampling_rate=RATE, return_tensors="pt").input_features
        return self(mel.to(next(self.network.parameters()).device), num_frames, fps)


def samples_of(voice: Audio) -> Float32[np.ndarray, " n"]:
    """Return a voice as one channel of 16 kHz.

    Raises:
        RequestError: it is longer than 30 s.
    """
    heard = [np.zeros((1, 0), np.float32), *voice.take(0, LONGEST_S + 1).mono(RATE).read()]
    samples = np.concatenate(heard, axis=1)[0]
    if samples.size > LONGEST_S * RATE:
        raise RequestError(
            f"The voice lasts more than {LONGEST_S} s, which is all that Whisper hears. Give a part of it, or make "
            "several videos."
        )
    return samples


def frames_in(samples: Float32[np.ndarray, " n"], fps: Fraction) -> int:
    """Return how many whole video frames a voice of 16 kHz lasts.

    Raises:
        RequestError: not a single one, or the rate is neither 25 nor 12.5.
    """
    _rows_per_frame(fps)
    num_frames = int(samples.size * fps / RATE)
    if not num_frames:
        raise RequestError(
            f"The voice lasts {samples.size / RATE:.3g} s, less than a frame at {float(fps):g} fps. Give a longer one."
        )
    return num_frames


def _rows_per_frame(fps: Fraction) -> int:
    if fps not in ROWS_PER_FRAME:
        raise RequestError(f"fps={float(fps):g} was given, but a voice is heard at 25 or 12.5 frames a second. Use 25.")
    return ROWS_PER_FRAME[fps]
