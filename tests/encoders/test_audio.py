"""The ear: which moments of a voice belong to which video frame, and what it refuses to hear."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mutoscope.core.errors import MissingExtra, RequestError, WeightsError
from mutoscope.core.video import Audio

pytest.importorskip("transformers")
import transformers

from mutoscope.encoders.audio import BEFORE, COLUMNS, LONGEST_S, RATE, WINDOW, Ear, samples_of
from tests.encoders.hub_folders import write_network

DIM, LAYERS, MELS = 8, 2, 12
CONFIG: dict[str, Any] = {
    "vocab_size": 20,
    "num_mel_bins": MELS,
    "d_model": DIM,
    "encoder_layers": LAYERS,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "max_target_positions": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    write_network(path, transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**CONFIG)))
    transformers.WhisperFeatureExtractor(feature_size=MELS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ear(folder: Path) -> Ear:
    return Ear.load(folder)


class Rows(torch.nn.Module):
    """In the place of a network: its rows are numbered from 1, and layer k says k thousand more."""

    dtype = torch.float32

    def forward(self, mel: Tensor, output_hidden_states: bool) -> Any:
        rows = torch.arange(1.0, 1 + mel.shape[2] // 2)[None, :, None]
        return type("Output", (), {"hidden_states": [rows + 1000 * layer for layer in range(3)]})


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> Audio:
    time = np.arange(round(seconds * rate)) / rate
    return Audio.from_array(np.tile(np.sin(2 * np.pi * 440 * time), (channels, 1)).astype(np.float32), rate)


@pytest.mark.parametrize(("fps", "stride"), [(Fraction(25), 2), (Fraction(25, 2), 4)])
def test_a_frame_hears_the_ten_rows_around_it_and_silence_where_there_are_none(fps: Fraction, stride: int) -> None:
    num_frames = int(30 * fps)
    heard = Ear(Rows())(torch.zeros(1, MELS, COLUMNS), num_frames, fps)[0, ..., 0]
    assert heard.shape == (num_frames, WINDOW, 3)
    for frame in (0, 1, 5, num_frames - 1):
        rows = [row + 1 if 0 <= row < COLUMNS // 2 else 0 for row in range(stride * frame - 4, stride * frame + 6)]
        assert heard[frame, :, 0].tolist() == rows
    real = heard[..., 0] > 0
    for layer in (1, 2):
        assert torch.equal(heard[..., layer], torch.where(real, heard[..., 0] + 1000 * layer, 0.0))


def test_rows_are_those_of_every_layer_of_the_encoder_of_a_whole_whisper(ear: Ear, folder: Path) -> None:
    mel = torch.randn(1, MELS, COLUMNS, generator=torch.Generator().manual_seed(0))
    whole = transformers.WhisperModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = whole.encoder(mel, output_hidden_states=True).hidden_states
        heard = ear(mel, 40)
    assert heard.shape == (1, 40, WINDOW, LAYERS + 1, DIM)
    for layer, state in enumerate(states):
        torch.testing.assert_close(heard[0, 7, :, layer], state[0, 14 - BEFORE : 14 - BEFORE + WINDOW])


def test_every_forty_milliseconds_are_a_frame_and_a_part_of_one_is_none(ear: Ear) -> None:
    for samples, frames in ((6400, 10), (6400 + 639, 10), (6400 + 640, 11)):
        voice = Audio.from_array(np.zeros((1, samples), np.float32), RATE)
        assert ear.encode(voice).shape[1] == frames
        assert ear.encode(voice, Fraction(25, 2)).shape[1] == frames // 2


def test_what_is_heard_depends_on_the_sound_alone_not_on_rate_and_channels(ear: Ear) -> None:
    heard = ear.encode(tone(0.6))
    for rate, channels in ((RATE, 2), (48_000, 1), (44_100, 2)):
        other = ear.encode(tone(0.6, rate, channels))
        assert other.shape == heard.shape
        assert (other - heard)[:, 4:-6].abs().max() < 0.05 * heard.std()
    assert (ear.encode(Audio.from_array(np.zeros((1, 9600), np.float32), RATE)) - heard).abs().max() > heard.std()


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_another_rate_keeps_a_tone_and_its_length_and_channels_are_averaged(rate: int) -> None:
    time = np.arange(2 * rate) / rate
    loud = np.sin(2 * np.pi * 440 * time)
    samples = samples_of(Audio.from_array(np.stack([loud, np.zeros_like(loud)]).astype(np.float32), rate))
    assert samples.shape == (2 * RATE,)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert np.abs(samples - wanted)[400:-400].max() < 1e-4


def test_a_voice_that_cannot_be_heard_is_refused_in_one_line(ear: Ear) -> None:
    assert samples_of(Audio.from_array(np.zeros((1, LONGEST_S * RATE), np.float32), RATE)).size == LONGEST_S * RATE
    with pytest.raises(RequestError, match="more than 30 s"):
        ear.encode(Audio.from_array(np.zeros((1, LONGEST_S * RATE + 1), np.float32), RATE))
    with pytest.raises(RequestError, match="less than a frame at 25 fps"):
        ear.encode(Audio.from_array(np.zeros((1, 639), np.float32), RATE))
    with pytest.raises(RequestError, match=r"fps=24 was given.*Use 25"):
        ear.encode(tone(1), Fraction(24))


def test_of_a_long_voice_no_more_is_read_than_shows_that_it_is_too_long() -> None:
    seconds: list[int] = []

    def read() -> Any:
        for second in range(3600):
            seconds.append(second)
            yield np.zeros((1, RATE), np.float32)

    with pytest.raises(RequestError):
        samples_of(Audio(RATE, "mono", read))
    assert len(seconds) < 40


def test_a_folder_without_its_spectrum_hears_spectrograms_only(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    bare = Ear.load(tmp_path)
    assert bare(torch.zeros(1, MELS, COLUMNS), 3).shape[1] == 3
    with pytest.raises(WeightsError, match=r"without preprocessor_config\.json"):
        bare.encode(tone(1))


def test_without_transformers_the_command_that_brings_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"Whisper needs transformers.*pip install 'mutoscope\[hub\]'"):
        Ear.load(folder)
