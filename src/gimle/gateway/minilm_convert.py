"""Turn the published MiniLM weights (safetensors) into one int8 ONNX file, without torch.

Runs in a process of its own: `python -m gimle.gateway.minilm_convert TOOLS SOURCE TARGET`. TOOLS is a folder
with the `onnx` package, which only this step needs. Mean pooling and the unit length are part of the graph.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FUSED = "com.microsoft"
DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
Array = npt.NDArray[Any]


def safetensors(path: Path) -> dict[str, Array]:
    """Tensors by name, mapped and not copied. Layout: u64 header length, JSON header, then the data."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r")
    base = 8 + length
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            tensors[name] = data[base + first : base + last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


class Graph:
    """Nodes and constants of the model, in the order in which they are written down."""

    def __init__(self, onnx: Any, weights: dict[str, Array], config: dict[str, Any]) -> None:
        self.onnx = onnx
        self.weights = weights
        self.epsilon = float(config["layer_norm_eps"])
        self.heads = int(config["num_attention_heads"])
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def tensor(self, name: str) -> Array:
        """A weight by its published name."""
        return np.asarray(self.weights[name], np.float32)

    def constant(self, name: str, value: Array) -> str:
        """Lay a constant into the file; returns its name, for the nodes that read it."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Append an operation; returns the name of its only output."""
        made = self.onnx.helper.make_node(kind, inputs, [output], name=output + "_n", domain=domain, **attributes)
        self.nodes.append(made)
        return output

    def norm(self, name: str, prefix: str) -> list[str]:
        """Scale and offset of a layer norm."""
        return [
            self.constant(name + "_scale", self.tensor(prefix + ".LayerNorm.weight")),
            self.constant(name + "_offset", self.tensor(prefix + ".LayerNorm.bias")),
        ]


def embeddings(graph: Graph) -> str:
    """Word, position and (constant) segment vectors, summed and normed."""
    words = graph.constant("words", graph.tensor("embeddings.word_embeddings.weight"))
    graph.node("Gather", [words, "input_ids"], "word")
    graph.node("Shape", ["input_ids"], "shape")
    graph.node("Gather", ["shape", graph.constant("second", np.array([1], np.int64))], "length")
    segment = graph.tensor("embeddings.token_type_embeddings.weight")[0]
    positions = graph.constant("positions", graph.tensor("embeddings.position_embeddings.weight") + segment)
    zero = graph.constant("zero", np.array([0], np.int64))
    graph.node("Slice", [positions, zero, "length", zero], "position")
    graph.node("Add", ["word", "position"], "summed")
    norm = graph.norm("first", "embeddings")
    return graph.node("LayerNormalization", ["summed", *norm], "x", axis=-1, epsilon=graph.epsilon)


def layer(graph: Graph, number: int, state: str) -> str:
    """One transformer layer out of ONNX Runtime's fused operators."""
    prefix, tag = f"encoder.layer.{number}.", f"l{number}_"
    parts = [prefix + f"attention.self.{part}" for part in ("query", "key", "value")]
    matrix = np.concatenate([graph.tensor(part + ".weight").T for part in parts], 1)
    bias = np.concatenate([graph.tensor(part + ".bias") for part in parts])
    inputs = [state, graph.constant(tag + "qkv", matrix), graph.constant(tag + "qkv_bias", bias), "mask32"]
    graph.node("Attention", inputs, tag + "attention", FUSED, num_heads=graph.heads)

    def linear(source: str, name: str, target: str) -> str:
        return graph.node("MatMul", [source, graph.constant(target + "_w", graph.tensor(name + ".weight").T)], target)

    def bias_of(name: str, target: str) -> str:
        return graph.constant(target + "_b", graph.tensor(name + ".bias"))

    out = prefix + "attention.output"
    linear(tag + "attention", out + ".dense", tag + "out")
    skip = [tag + "out", state, *graph.norm(tag + "a", out), bias_of(out + ".dense", tag + "out")]
    graph.node("SkipLayerNormalization", skip, tag + "mid", FUSED, epsilon=graph.epsilon)
    up, down = prefix + "intermediate.dense", prefix + "output"
    linear(tag + "mid", up, tag + "up")
    graph.node("BiasGelu", [tag + "up", bias_of(up, tag + "up")], tag + "gelu", FUSED)
    linear(tag + "gelu", down + ".dense", tag + "down")
    skip = [tag + "down", tag + "mid", *graph.norm(tag + "b", down), bias_of(down + ".dense", tag + "down")]
    return graph.node("SkipLayerNormalization", skip, tag + "end", FUSED, epsilon=graph.epsilon)


def pooled(graph: Graph, state: str, kinds: Any) -> str:
    """Sum over the real tokens, brought to length one (mean and sum point the same way)."""
    graph.node("Cast", ["attention_mask"], "mask", to=kinds.FLOAT)
    graph.node("Unsqueeze", ["mask", graph.constant("two", np.array([2], np.int64))], "mask3")
    graph.node("Mul", [state, "mask3"], "masked")
    graph.node("ReduceSum", ["masked", graph.constant("one", np.array([1], np.int64))], "sum", keepdims=0)
    return graph.node("LpNormalization", ["sum"], "embedding", axis=-1, p=2)


def build(source: Path, target: Path) -> None:
    """Write the float32 graph of the model in `source` (config.json, model.safetensors) to `target`."""
    onnx = importlib.import_module("onnx")
    kinds = onnx.TensorProto
    config = json.loads((source / "config.json").read_text("utf-8"))
    graph = Graph(onnx, safetensors(source / "model.safetensors"), config)
    state = embeddings(graph)
    graph.node("Cast", ["attention_mask"], "mask32", to=kinds.INT32)
    for number in range(config["num_hidden_layers"]):
        state = layer(graph, number, state)
    pooled(graph, state, kinds)

    helper = onnx.helper
    inputs = [helper.make_tensor_value_info(n, kinds.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("embedding", kinds.FLOAT, ["b", config["hidden_size"]])
    body = helper.make_graph(graph.nodes, "minilm", inputs, [output], graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)])
    model.ir_version = 9
    onnx.save(model, str(target))


def quantise(full: Path, target: Path) -> None:
    """Dynamic int8 of all weights, a scale for each channel (one scale a tensor costs cosine 0.05)."""
    quantization = importlib.import_module("onnxruntime.quantization")
    kinds = importlib.import_module("onnx").TensorProto
    quantization.quantize_dynamic(
        str(full),
        str(target),
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Attention", "Gather"],
        extra_options={"DefaultTensorType": kinds.FLOAT},
    )


def main(tools: str, source: str, target: str) -> None:
    """Convert `source` into `target`; the float32 step lies beside it and goes again."""
    sys.path.insert(0, tools)
    full = Path(target).with_suffix(".fp32")
    build(Path(source), full)
    quantise(full, Path(target))
    full.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:4])
