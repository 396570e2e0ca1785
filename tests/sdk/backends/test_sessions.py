"""Backends that run ONNX files: each runs what the bundle holds, and its errors name the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sdk import Purifier
from sdk.backends import open_backend, sessions
from sdk.backends.golden import Golden, replay
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.openvino import OpenVinoBackend
from sdk.bundle import MANIFEST, Bundle, RandomInput, sha256_of, write_manifest
from sdk.draw import Drawer
from sdk.errors import BackendError, BundleError
from tests.sdk.fakes.golden import with_golden

Kind = type[OnnxRuntimeBackend] | type[OpenVinoBackend]
Opened = OnnxRuntimeBackend | OpenVinoBackend

IMAGE = np.linspace(0, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
ALL_KEPT = {"atom_mask": np.ones((1, 12), np.float32)}
ENGINE = "engine classifier-01 .*"


@pytest.fixture(params=[OnnxRuntimeBackend, OpenVinoBackend], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def backend(tiny_bundle: Path, kind: Kind) -> Iterator[Opened]:
    with closing(kind(Bundle.open(tiny_bundle))) as opened:
        yield opened


def test_purifiers_differ_and_follow_their_mask(tiny_bundle: Path, backend: Opened) -> None:
    none_kept = {"atom_mask": np.zeros((1, 12), np.float32)}
    pictures = [backend.purify(i, IMAGE, ALL_KEPT) for i in range(3)]
    for i, picture in enumerate(pictures):
        shifts = initializer(tiny_bundle / f"onnx/purifier-{i:02d}.onnx", "shifts")
        expected = np.clip(IMAGE + shifts.sum(axis=0).reshape(1, 3, 1, 1), 0, 1)
        np.testing.assert_allclose(picture, expected, atol=1e-6)
        np.testing.assert_allclose(backend.purify(i, IMAGE, none_kept), IMAGE, atol=1e-6)
    assert not np.array_equal(pictures[0], pictures[1])


def test_classifiers_give_their_logits(backend: Opened) -> None:
    colour = IMAGE.mean(axis=(2, 3))[0]
    for j, sharpness in enumerate((4.0, 5.0)):
        expected = sharpness * np.append(colour, 0.25)
        np.testing.assert_allclose(backend.classify(j, IMAGE)[0], expected, rtol=1e-5)


def test_an_output_that_someone_keeps_stays_as_it_was(backend: Opened) -> None:
    purified, logits = backend.purify(0, IMAGE, ALL_KEPT), backend.classify(0, IMAGE)
    kept = purified.copy(), logits.copy()
    backend.purify(0, 1 - IMAGE, ALL_KEPT)
    backend.classify(0, IMAGE / 2)
    np.testing.assert_array_equal(purified, kept[0])
    np.testing.assert_array_equal(logits, kept[1])


def test_a_draw_is_its_purifier_into_its_classifier(tiny_bundle: Path, backend: Opened) -> None:
    draw = Drawer(Bundle.open(tiny_bundle).manifest, seed=3).draw()[0]
    purified = backend.purify(draw.purifier, IMAGE, draw.random_inputs)
    inference = backend.run(draw, IMAGE, want_purified=True)
    assert inference.purified is not None
    np.testing.assert_array_equal(inference.purified, purified)
    np.testing.assert_array_equal(inference.logits, backend.classify(draw.classifier, purified))
    assert inference.purify_s > 0
    assert inference.classify_s > 0
    assert backend.run(draw, IMAGE, want_purified=False).purified is None


def test_indices_are_taken_as_they_are(bundle_copy: Path, kind: Kind) -> None:
    """As of MAEP, whose patches to keep are int64: the image plus the mean of the numbers that are kept."""
    keep = RandomInput("keep", "subset", 12, 3, "indices", "int64", (1, 3))
    numbers = np.linspace(0, 1, keep.size, dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["numbers", "keep"], ["kept"]),
        helper.make_node("ReduceMean", ["kept"], ["mean"], keepdims=0),
        helper.make_node("Add", ["image", "mean"], ["purified"]),
    ]
    inputs = {"image": (TensorProto.FLOAT, IMAGE.shape), "keep": (TensorProto.INT64, keep.shape)}
    model = model_of(nodes, inputs, {"purified": IMAGE.shape}, {"numbers": numbers})
    replace(bundle_copy, "onnx/purifier-00.onnx", model)
    manifest = Bundle.open(bundle_copy).manifest
    purifier = msgspec.structs.replace(manifest.purifiers[0], random_inputs=(keep,))
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, purifiers=(purifier,)))
    with closing(kind(Bundle.open(bundle_copy))) as backend:
        for kept in ([0, 1, 2], [3, 8, 11]):
            purified = backend.purify(0, IMAGE, {"keep": np.array([kept])})
            np.testing.assert_allclose(purified, IMAGE + numbers[kept].mean(), rtol=1e-6)


def test_golden_outputs(bundle_copy: Path, kind: Kind) -> None:
    bundle = with_golden(bundle_copy)
    with closing(kind(bundle)) as backend:
        deviations = replay(bundle, backend, Golden.load(bundle))
    assert [found.complaint for found in deviations if found.complaint] == []


def test_it_says_what_it_is_and_is_opened_by_its_name(tiny_bundle: Path, kind: Kind) -> None:
    with closing(open_backend(Bundle.open(tiny_bundle), kind.name)) as opened:
        assert type(opened) is kind
        assert (opened.name, opened.precision) == (kind.name, "fp32")
        assert opened.version[0].isdigit()


def test_engines_get_all_cpus_only_where_that_is_measured_to_pay(
    tiny_bundle: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(tiny_bundle)
    monkeypatch.setattr(sessions, "available_cpus", lambda: 2)
    monkeypatch.setattr(sessions, "SLOW_MS", 1e9)
    assert kind(bundle).threads == 1
    monkeypatch.setattr(sessions, "SLOW_MS", 0.0)
    monkeypatch.setattr(sessions, "GAIN", 0.0)  # no engine gets that fast
    few = kind(bundle)
    assert (few.threads, threads_of(few)) == (1, 1)
    monkeypatch.setattr(sessions, "GAIN", 1e9)
    many = kind(bundle)
    assert (many.threads, threads_of(many)) == (2, 2)
    one = kind(bundle, threads=1)
    assert (one.threads, threads_of(one)) == (1, 1)
    monkeypatch.setattr(sessions, "available_cpus", lambda: 1)
    assert kind(bundle).threads == 1


def test_engines_that_are_drawn_among_have_the_same_number_of_threads(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_ms = iter(
        [2.0, 1.0, 2.0, 2.0]
    )  # more threads pay for the first purifier, not for the first classifier
    monkeypatch.setattr(sessions, "available_cpus", lambda: 2)
    monkeypatch.setattr(sessions, "_run_ms", lambda session, file: next(times_ms))
    with closing(OnnxRuntimeBackend(Bundle.open(tiny_bundle))) as backend:
        purifiers, classifiers = (
            [session.get_session_options().intra_op_num_threads for session in bare]
            for bare in backend.bare_sessions()
        )
    assert purifiers == [2] * len(purifiers)
    assert classifiers == [1] * len(classifiers)
    assert len(purifiers) > 1
    assert len(classifiers) > 1


def test_runs_at_once_have_one_thread_each(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "available_cpus", lambda: 2)
    monkeypatch.setattr(sessions, "SLOW_MS", 0.0)
    monkeypatch.setattr(sessions, "GAIN", 1e9)  # every engine gets two threads
    opened: list[int] = []
    with closing(OnnxRuntimeBackend(Bundle.open(tiny_bundle))) as backend:
        before = backend.purify(0, IMAGE, ALL_KEPT)
        open_session = backend._open
        monkeypatch.setattr(
            backend, "_open", lambda file, threads: opened.append(threads) or open_session(file, threads)
        )
        wide = backend._purifiers[0]
        with backend._narrow.chosen(wide) as alone:
            assert alone is wide
            for _ in range(2):
                np.testing.assert_array_equal(backend.purify(0, IMAGE, ALL_KEPT), before)
        assert opened == [1], "once, when it is first wanted"
        backend.purify(0, IMAGE, ALL_KEPT)
        assert opened == [1]


@pytest.mark.parametrize(
    "inputs", [{"atom_mask": np.ones((1, 11), np.float32)}, {}, {**ALL_KEPT, "seed": ALL_KEPT["atom_mask"]}]
)
def test_wrong_random_inputs_name_the_engine(backend: Opened, inputs: dict[str, np.ndarray]) -> None:
    backend.purify(1, IMAGE, ALL_KEPT)  # whose values must not stand in for those that are missing
    with pytest.raises(BackendError, match=r"engine purifier-01 .*failed while running: ") as caught:
        backend.purify(1, IMAGE, inputs)
    assert "\n" not in str(caught.value)


def test_a_wrong_image_names_the_engine(backend: Opened) -> None:
    for image in (IMAGE.astype(np.float64), IMAGE[:, :, :8]):
        with pytest.raises(BackendError, match=r"engine classifier-00 .*failed while running: ") as caught:
            backend.classify(0, image)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not an engine", b"\x08"])
def test_a_file_that_is_no_onnx_is_named(bundle_copy: Path, kind: Kind, content: bytes) -> None:
    replace(bundle_copy, "onnx/classifier-01.onnx", content)
    with pytest.raises(BundleError, match=r"onnx/classifier-01\.onnx is not an ONNX file: .*export"):
        kind(Bundle.open(bundle_copy))


def test_a_graph_that_the_runtime_refuses_names_the_engine(
    bundle_copy: Path, kind: Kind, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (bundle_copy / "onnx/classifier-01.onnx").read_bytes()
    replace(bundle_copy, "onnx/classifier-01.onnx", content.replace(b"Gemm", b"Gexx"))
    with pytest.raises(BackendError, match=ENGINE + "can't load it: .*; export the bundle again$") as caught:
        kind(Bundle.open(bundle_copy))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_engine_of_another_signature_is_refused(bundle_copy: Path, kind: Kind) -> None:
    purifier = (bundle_copy / "onnx/purifier-00.onnx").read_bytes()
    replace(bundle_copy, "onnx/classifier-01.onnx", purifier)
    with pytest.raises(
        BackendError,
        match=ENGINE
        + r"expected inputs image float32 \[1, 3, 16, 16\], got atom_mask float32 \[1, 12\], image",
    ):
        kind(Bundle.open(bundle_copy))


def test_an_operator_that_the_runtime_lacks_names_the_engine(bundle_copy: Path, kind: Kind) -> None:
    node = helper.make_node("Flatter", ["image"], ["logits"])
    model = model_of([node], {"image": (TensorProto.FLOAT, IMAGE.shape)}, {"logits": (1, 4)}, {})
    replace(bundle_copy, "onnx/classifier-01.onnx", model)
    with pytest.raises(BackendError, match=ENGINE + "can't load it: .*Flatter") as caught:
        kind(Bundle.open(bundle_copy))
    assert "\n" not in str(caught.value)


def test_more_labels_than_logits_are_refused_before_the_first_frame(bundle_copy: Path, kind: Kind) -> None:
    replace(bundle_copy, "labels.txt", b"red\ngreen\nblue\ndark\nviolet\n")
    with pytest.raises(
        BackendError, match=r"expected outputs logits float32 \[1, 5\], got logits float32 \[1, 4\]"
    ):
        kind(Bundle.open(bundle_copy))


def test_a_precision_that_the_bundle_lacks_names_those_it_has(tiny_bundle: Path, kind: Kind) -> None:
    with pytest.raises(BackendError, match="no int8 engines in it; choose --precision fp32"):
        open_backend(Bundle.open(tiny_bundle), kind.name, "int8")


def test_a_closed_one_says_so(backend: Opened) -> None:
    backend.close()
    backend.close()
    for call in (lambda: backend.classify(0, IMAGE), lambda: backend.purify(0, IMAGE, ALL_KEPT)):
        with pytest.raises(BackendError, match=f"backend {backend.name}: it is closed; load it again"):
            call()


def test_a_frame_gets_its_label(tiny_bundle: Path, kind: Kind, red_frame: np.ndarray) -> None:
    with Purifier.load(tiny_bundle, backend=kind.name, votes=3, suspicion=True) as purifier:
        result = purifier(red_frame)
    assert result.label == "red"
    assert result.suspicion is not None


def threads_of(backend: Opened) -> int:
    """What the runtime itself says."""
    if isinstance(backend, OpenVinoBackend):
        return int(backend.compiled_models()[0][0].get_property("INFERENCE_NUM_THREADS"))
    return int(backend.bare_sessions()[0][0].get_session_options().intra_op_num_threads)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, tuple[int, ...]]],
    outputs: dict[str, tuple[int, ...]],
    constants: dict[str, np.ndarray],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


def initializer(path: Path, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer if i.name == name)


def replace(bundle: Path, name: str, content: bytes) -> None:
    """Change a file and the manifest's hash of it, as a faulty exporter would."""
    manifest, path = bundle / MANIFEST, bundle / name
    before = sha256_of(path)
    path.write_bytes(content)
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))
