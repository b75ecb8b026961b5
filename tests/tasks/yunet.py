"""YuNet's layout without its weights: a face is where blue is, and as large as the cell that is full of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

STRIDES = (8, 16, 32)
CENTRED = (0.5, 0.5, 0.0, 0.0)


def write_yunet(
    path: Path, taken: Sequence[int | str] = (64, 64), code: Sequence[float] = CENTRED, lacks: str = ""
) -> Path:
    """Write a detector.

    Args:
        path: file.
        taken: height and width that it takes, or names of what is free.
        code: of every box: offset from the cell's corner across and down, logarithms of width and height, in cells.
        lacks: the output that is left out.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "blue": np.eye(3, dtype=np.float32)[:1, :, None, None] / 255,
        "column": np.array([1, -1, 1]),
        "box": np.array(code, np.float32)[None, None],
        "four": np.zeros((1, 1, 4), np.float32),
        "ten": np.zeros((1, 1, 10), np.float32),
    }
    nodes, outputs = [helper.make_node("Conv", ["input", "blue"], ["blues"])], []
    for stride in STRIDES:
        sides = [stride, stride]
        nodes += [
            helper.make_node("AveragePool", ["blues"], [f"mean_{stride}"], kernel_shape=sides, strides=sides),
            helper.make_node("Reshape", [f"mean_{stride}", "column"], [f"cls_{stride}"]),
            helper.make_node("Identity", [f"cls_{stride}"], [f"obj_{stride}"]),
            helper.make_node("Mul", [f"cls_{stride}", "four"], [f"nought_{stride}"]),
            helper.make_node("Add", [f"nought_{stride}", "box"], [f"bbox_{stride}"]),
            helper.make_node("Mul", [f"cls_{stride}", "ten"], [f"kps_{stride}"]),
        ]
    for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in STRIDES:
            if f"{name}_{stride}" != lacks:
                outputs.append(helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, None, width]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *taken])
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [given], outputs, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path
