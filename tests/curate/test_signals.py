from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")

import av
import cv2
from PIL import Image

from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video, probe
from mutoscope.curate import pixels, signals
from mutoscope.curate.signals import SignalSettings

HEIGHT, WIDTH = 120, 160


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Smooth noise in grey, "height width 3"."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.repeat(np.clip(128 + 250 * soft, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def shifted(num_frames: int, step: int) -> np.ndarray:
    wide = texture(width=WIDTH + num_frames * step)
    return np.stack([wide[:, i * step : i * step + WIDTH] for i in range(num_frames)])


def write(path: Path, frames: np.ndarray, pix_fmt: str = "yuv420p", fps: int = 24) -> Path:
    """Encode nearly without loss, with a key frame every 12 frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def column(table, name: str) -> np.ndarray:
    return table[name].to_numpy()


@pytest.fixture(scope="module")
def pan(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pan") / "pan.mp4", shifted(50, 2))


def test_there_is_a_row_for_every_frame_with_its_time_and_kind(pan):
    table, found = signals.measure(pan), probe(pan)
    assert table.schema.equals(signals.SCHEMA)
    assert column(table, "index").tolist() == list(range(found.num_frames))
    np.testing.assert_allclose(column(table, "time_s"), [float(time) for time in found.times[:-1]], atol=1e-9)
    keys = [round((stamp * found.time_base - found.start_s) * found.fps) for stamp in found.keyframes]
    assert np.flatnonzero(table["is_key"].to_numpy(zero_copy_only=False)).tolist() == keys
    told = signals.facts(table)
    assert (told.width, told.height, told.fps, told.num_frames, told.codec) == (WIDTH, HEIGHT, 24.0, 50, "h264")


def test_a_frame_of_one_grey_has_that_mean_and_nothing_else(tmp_path):
    table = signals.measure(write(tmp_path / "grey.mp4", np.full((6, HEIGHT, WIDTH, 3), 102, np.uint8)))
    for name in ("luma_mean", "luma_low", "luma_high"):
        np.testing.assert_allclose(column(table, name), 102 / 255, atol=0.005)
    for name in ("luma_std", "saturation", "content", "edge", "hash_distance", "histogram_distance", "flow_residual"):
        np.testing.assert_allclose(column(table, name), 0, atol=0.003)
    assert (column(table, "still") == 1).all()
    assert table["border_top"][0].as_py() == table["border_left"][0].as_py() == 1


def test_pure_colours_have_the_differences_of_the_standard(tmp_path):
    red = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 255
    row = signals.measure(write(tmp_path / "red.mp4", red)).slice(1, 1).to_pylist()[0]
    # ITU-R BT.601: U = (B - Y) / 1.772, V = (R - Y) / 1.402, Y = 0.299 R
    assert row["luma_mean"] == pytest.approx(0.299, abs=0.01)
    assert row["u_mean"] == pytest.approx(-0.299 / 1.772, abs=0.01)
    assert row["v_mean"] == pytest.approx(0.701 / 1.402, abs=0.01)
    assert row["saturation"] == pytest.approx(np.hypot(row["u_mean"], row["v_mean"]), abs=0.002)


@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "yuv444p", "yuv420p10le", "yuv422p"])
def test_the_same_picture_in_another_pixel_format_has_the_same_statistics(tmp_path, pix_fmt):
    frames = shifted(6, 2)
    plain = signals.measure(write(tmp_path / "plain.mp4", frames))
    other = signals.measure(write(tmp_path / "other.mkv", frames, pix_fmt))
    for name in ("luma_mean", "luma_std", "luma_low", "luma_high", "u_mean", "v_mean"):
        np.testing.assert_allclose(column(other, name), column(plain, name), atol=0.008)
    assert np.bitwise_count(column(plain, "phash") ^ column(other, "phash")).max() <= 6


def test_a_pan_is_measured_in_frame_widths_and_leaves_little(pan):
    table = signals.measure(pan)
    np.testing.assert_allclose(np.median(column(table, "flow_x")), -2 / WIDTH, rtol=0.1)
    for name in ("flow_y", "flow_zoom", "flow_roll"):
        assert abs(np.median(column(table, name))) < 0.001
    assert np.median(column(table, "flow_residual")) < 0.2 * 2 / WIDTH


@pytest.mark.parametrize(("height", "width"), [(96, 1152), (64, 1280), (768, 64)])
def test_a_pan_over_very_oblong_frames_is_measured(tmp_path, height, width):
    wide = texture(height, width + 4 * 12)
    frames = np.stack([wide[:, 4 * i : 4 * i + width] for i in range(12)])
    table = signals.measure(write(tmp_path / "oblong.mp4", frames))
    np.testing.assert_allclose(np.median(column(table, "flow_x")), -4 / width, rtol=0.15)
    assert abs(np.median(column(table, "flow_y"))) < 0.5 / width


def test_flow_is_never_asked_for_at_a_size_for_which_opencv_writes_out_of_bounds():
    for aspect in np.geomspace(1 / 40, 40, 2000):
        assert min(pixels.Flow.of(round(4000 * aspect), 4000).size) >= 32


@pytest.mark.parametrize(("zoom", "roll"), [(1.01, 0.0), (1.0, 0.01), (0.99, -0.01)])
def test_zoom_and_roll_of_the_camera_are_measured(tmp_path, zoom, roll):
    large, frames = texture(400, 400), []
    for i in range(16):
        scale, angle = zoom**i, -np.degrees(roll * i)  # OpenCV turns counter-clockwise
        turn = cv2.getRotationMatrix2D((199.5, 199.5), angle, scale)
        turned = cv2.warpAffine(large, turn, (400, 400))
        frames.append(turned[140 : 140 + HEIGHT, 120 : 120 + WIDTH])
    table = signals.measure(write(tmp_path / "camera.mp4", np.stack(frames)))
    assert np.median(column(table, "flow_zoom")) == pytest.approx(np.log(zoom), abs=0.0015)
    assert np.median(column(table, "flow_roll")) == pytest.approx(roll, abs=0.0015)


def test_a_thing_that_moves_before_a_still_camera_is_left_to_the_residual(tmp_path):
    frames = np.repeat(texture()[None], 24, axis=0)
    for i in range(24):
        frames[i, 40:80, 2 * i + 20 : 2 * i + 60] = texture(40, 40, seed=5)
    table = signals.measure(write(tmp_path / "thing.mp4", frames))
    assert abs(np.median(column(table, "flow_x"))) < 0.1 * 2 / WIDTH
    covered = 40 * 40 / (HEIGHT * WIDTH)
    assert np.median(column(table, "flow_residual")) > 0.4 * covered * 2 / WIDTH


def test_a_camera_that_moves_nothing_of_what_it_would_move_stands():
    flow = pixels.Flow.of(WIDTH, HEIGHT)
    _, grid = flow.between(np.zeros((2, HEIGHT, WIDTH), np.uint8))
    pan = np.zeros((1, grid.shape[1], 2), np.float32)
    pan[..., 0] = 2 / flow.size[0]  # two pixels
    seen = np.zeros_like(grid)
    seen[..., :2], seen[..., 2] = 10, 20  # edges of ten levels a pixel, which two pixels change by twenty
    for share, wanted in ((0.0, pan[0, 0, 0]), (0.3, pan[0, 0, 0]), (0.7, 0.0)):
        stood = seen.copy()
        stood[:, : int(share * seen.shape[1]), 2] = 0.5
        found = flow.camera(pan, stood)[0]
        np.testing.assert_allclose(found[0], wanted, atol=1e-4)
        np.testing.assert_allclose(
            found[4] + abs(found[0]), pan[0, 0, 0], atol=1e-4
        )  # what it does not explain is left
    nothing_to_tell_by = np.zeros_like(grid)
    np.testing.assert_allclose(flow.camera(pan, nothing_to_tell_by)[0, 0], pan[0, 0, 0], atol=1e-4)


def test_flat_borders_are_measured_to_the_pixel(tmp_path):
    frames = np.repeat(texture()[None], 8, axis=0)
    frames[:, :18] = frames[:, -12:] = 0
    frames[:, :, :10] = 0
    row = signals.measure(write(tmp_path / "border.mp4", frames)).slice(0, 1).to_pylist()[0]
    for side, share in (("top", 18 / HEIGHT), ("bottom", 12 / HEIGHT), ("left", 10 / WIDTH), ("right", 0)):
        assert row[f"border_{side}"] == pytest.approx(share, abs=1.1 / HEIGHT)


def test_repeated_frames_are_still(tmp_path):
    frames = np.concatenate([shifted(12, 3), np.repeat(shifted(12, 3)[-1:], 12, axis=0)])
    still = column(signals.measure(write(tmp_path / "freeze.mp4", frames)), "still")
    assert still[1:12].max() < 0.5 and still[14:].min() > 0.99


def test_blur_lowers_sharpness_and_detail(tmp_path):
    sharp = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 1), np.uint8).repeat(3, -1)
    blurred = cv2.GaussianBlur(sharp[0], (0, 0), 1.5)[None]
    rows = [
        signals.measure(write(tmp_path / f"{name}.mp4", frames.repeat(3, 0))).to_pylist()[0]
        for name, frames in (("sharp", sharp), ("blurred", blurred))
    ]
    assert rows[1]["detail"] < 0.1 * rows[0]["detail"] and rows[1]["sharpness"] < 0.5 * rows[0]["sharpness"]


def test_rows_do_not_depend_on_the_size_of_batches(pan):
    small, large = (signals.measure(pan, SignalSettings(batch_frames=count)) for count in (6, 100))
    for name in signals.SCHEMA.names:
        a, b = small[name].to_pylist(), large[name].to_pylist()
        assert a == b if name in ("cells", "histogram", "picture", "phash") else a == pytest.approx(b, abs=1e-5), name


def test_key_frames_alone_have_the_rows_that_they_have_among_all(pan):
    every, keys = signals.measure(pan), signals.keyframes(pan)
    chosen = every.filter(every["is_key"])
    for name in ("index", "time_s", "luma_mean", "sharpness", "phash", "saturation"):
        assert keys[name].equals(chosen[name]), name


def test_pictures_come_once_a_second_and_on_both_sides_of_a_sudden_change(tmp_path):
    frames = np.concatenate([np.repeat(texture(seed=1)[None], 30, 0), np.repeat(texture(seed=2)[None], 30, 0)])
    table = signals.measure(write(tmp_path / "cut.mp4", frames))
    pictures = table["picture"].to_pylist()
    assert [index for index, data in enumerate(pictures) if data] == [0, 24, 29, 30, 48]
    shown = decoded(pictures[30])
    assert shown.shape == (256, 341, 3)
    wanted = cv2.resize(frames[30], (341, 256), interpolation=cv2.INTER_LINEAR)
    assert np.abs(shown.astype(float) - wanted).mean() < 6


def test_colours_of_pictures_are_those_of_the_reader(tmp_path):
    frames = np.zeros((2, 720, 1280, 3), np.uint8)
    frames[:] = (200, 80, 40)
    path = write(tmp_path / "hd.mp4", frames)
    data = signals.measure(path)["picture"][0].as_py()
    shown = decoded(data)
    np.testing.assert_allclose(shown.mean((0, 1)), Video.open(path).array()[0].mean((0, 1)), atol=4)


def test_a_saved_table_is_the_measured_one(pan, tmp_path):
    signals.save(pan, tmp_path / "pan.parquet")
    saved, measured = signals.load(tmp_path / "pan.parquet"), signals.measure(pan)
    assert saved.replace_schema_metadata(None).equals(measured.replace_schema_metadata(None))
    assert signals.facts(saved) == signals.facts(measured)
    some = signals.load(tmp_path / "pan.parquet", ["index", "content"])
    assert some.column_names == ["index", "content"] and signals.facts(some) == signals.facts(measured)


def test_what_is_no_table_of_signals_is_refused(tmp_path):
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    for name in ("no.parquet", "missing.parquet"):
        with pytest.raises(MediaError, match="Measure the video again"):
            signals.load(tmp_path / name)


def test_a_photo_is_a_table_of_one_row(tmp_path):
    Image.fromarray(texture()).save(tmp_path / "photo.png")
    table = signals.measure(tmp_path / "photo.png")
    assert table.num_rows == 1 and table["picture"][0].as_py()
    assert table["luma_mean"][0].as_py() == pytest.approx(texture().mean() / 255, abs=0.01)
    assert signals.keyframes(tmp_path / "photo.png").num_rows == 1


def test_damaged_files_end_in_one_line(pan, tmp_path):
    data = pan.read_bytes()
    broken = {
        "empty.mp4": b"",
        "text.mp4": b"no video at all\n" * 50,
        "cut.mp4": data[: len(data) // 2],
        "header.mp4": data[:40],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError) as error:
            signals.measure(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(MediaError, match="does not exist"):
        signals.measure(tmp_path / "missing.mp4")


def test_flipped_bits_give_a_table_or_a_reason(pan, tmp_path):
    data = np.frombuffer(pan.read_bytes(), np.uint8)
    for seed in range(25):
        draw, damaged = np.random.default_rng(seed), data.copy()
        damaged[draw.integers(len(data), size=20)] ^= np.uint8(1 << draw.integers(8))
        (tmp_path / "flipped.mp4").write_bytes(damaged.tobytes())
        with suppress(MediaError):
            assert signals.measure(tmp_path / "flipped.mp4").num_rows > 0


def test_frames_too_large_to_be_true_are_refused_before_they_are_decoded(pan, monkeypatch):
    monkeypatch.setattr(signals, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(MediaError, match="claims frames of 160x120"):
        signals.measure(pan)
