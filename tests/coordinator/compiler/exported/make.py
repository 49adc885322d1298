"""Exports the models of these tests by torch's two exporters and by skl2onnx.

    python -m venv export && export/bin/pip install torch onnxscript skl2onnx
    export/bin/python -m tests.coordinator.compiler.exported.make

writes `torch/NAME.onnx` (the exporter of torch.export), `torchscript/NAME.onnx` (the older one) and
`sklearn/NAME.onnx` beside this file. The versions that made the kept files are in `VERSIONS`.
"""

import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from skl2onnx import to_onnx
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tests.coordinator.compiler.exported.modules import CASES, Case

HERE = Path(__file__).parent


def example(case: Case, batch: int) -> tuple[torch.Tensor, ...]:
    """Random inputs."""
    if case.words:
        return tuple(torch.randint(0, case.words, (batch, *shape)) for shape in case.inputs)
    return tuple(torch.randn(batch, *shape) for shape in case.inputs)


def export(name: str, case: Case, dynamo: bool) -> onnx.ModelProto:
    """A module, exported by one of torch's exporters."""
    torch.manual_seed(1)
    module = case.make()
    module.train(case.training)
    mode = torch.onnx.TrainingMode.TRAINING if case.training else torch.onnx.TrainingMode.EVAL
    inputs = [f"x{i}" if i else "x" for i in range(len(case.inputs))]
    names = {"input_names": inputs, "output_names": list(case.outputs)}
    path = HERE / "torch.tmp"
    if dynamo:
        batch = torch.export.Dim("batch", min=1, max=4096)
        shapes = tuple({0: batch} for _ in case.inputs)
        program = torch.onnx.export(
            module, example(case, 3), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
        assert program is not None
        program.save(str(path), external_data=False)
    else:
        axes = {n: {0: "batch"} for n in (*inputs, *case.outputs)}
        torch.onnx.export(
            module,
            example(case, 3),
            str(path),
            dynamo=False,
            dynamic_axes=axes,
            training=mode,
            do_constant_folding=not case.training,
            opset_version=17,
            **names,
        )
    made = onnx.load(path)
    path.unlink()
    return slim(made)


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the stack traces that the newer exporter keeps with every node."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for kept in (model.graph, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del kept.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


def estimators() -> dict[str, onnx.ModelProto]:
    """Linear models and perceptrons of scikit-learn."""
    x, labels = make_classification(200, 6, n_informative=4, n_classes=3, random_state=1)
    _, two = make_classification(200, 6, random_state=2)
    _, amount = make_regression(200, 6, random_state=3)
    x = x.astype(np.float32)
    small = {"hidden_layer_sizes": (8,), "max_iter": 20, "random_state": 1}
    fitted = {
        "linear_regression": LinearRegression().fit(x, amount),
        "logistic_regression": LogisticRegression().fit(x, labels),
        "logistic_of_two": LogisticRegression().fit(x, two),
        "scaled_logistic": make_pipeline(StandardScaler(), LogisticRegression()).fit(x, labels),
        "linear_svc": LinearSVC(random_state=1).fit(x, labels),
        "linear_svc_of_two": LinearSVC(random_state=1).fit(x, two),
        "sgd_hinge": SGDClassifier(random_state=1).fit(x, labels),
        "mlp_classifier": MLPClassifier(**small).fit(x, labels),
        "mlp_regressor": MLPRegressor(**small).fit(x, amount),
    }
    return {name: to_onnx(model, x[:1]) for name, model in fitted.items()}


def main() -> None:
    """Write all files."""
    warnings.simplefilter("ignore")
    only = sys.argv[1:]
    for folder, dynamo in (("torch", True), ("torchscript", False)):
        (HERE / folder).mkdir(exist_ok=True)
        for name, case in CASES.items():
            if not only or name in only:
                onnx.save(export(name, case, dynamo), HERE / folder / f"{name}.onnx")
    (HERE / "sklearn").mkdir(exist_ok=True)
    for name, model in estimators().items():
        onnx.save(model, HERE / "sklearn" / f"{name}.onnx")
    packages = ("torch", "onnxscript", "onnx", "scikit-learn", "skl2onnx")
    text = "".join(f"{name} {version(name)}\n" for name in packages)
    (HERE / "VERSIONS").write_text(text)


if __name__ == "__main__":
    main()
