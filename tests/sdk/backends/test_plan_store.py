"""Engines on disk: fingerprints, places, and that only the right plan is ever handed out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.backends.plan_store import (
    SCHEMA,
    BuiltEngine,
    Fingerprint,
    Host,
    Sidecar,
    build_command,
    bundle_folder,
    cache_folder,
    covers,
    find_engine,
    make_cache_folder,
    plan_path,
)
from sdk.bundle import Bundle, File, sha256_of, write_manifest
from sdk.errors import BackendError

RTX = Host("tensorrt-rtx", "1.7.1.116", "NVIDIA RTX 4090", "8.9")
ORIN = Host("tensorrt", "10.3.0.30", "Orin", "8.7")
ORIN16 = Host("tensorrt", "10.3.0.30", "Orin", "8.7", multiprocessors=16)
AGX = Host("tensorrt", "10.3.0.30", "Orin", "8.7", "Jetson AGX Orin")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-purify"


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


def fingerprint(bundle: Bundle, host: Host, **changes: Any) -> Fingerprint:
    rtx = host.backend == "tensorrt-rtx"
    made = Fingerprint(
        backend=host.backend,
        version=host.version,
        onnx_sha256=bundle.manifest.purifiers[0].onnx["fp32"].sha256,
        precision="fp32",
        capabilities=("8.0+",) if rtx else (host.compute_capability,),
        gpu=None if rtx else host.gpu,
        options={"workspace_mib": 512, "recipe": 1},
    )
    return msgspec.structs.replace(made, **changes)


def put(folder: Path, made: Fingerprint, plan: bytes = b"plan", *, engine: str = "purifier-00") -> Path:
    """Write a plan and its sidecar as the builder does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = plan_path(folder, engine, made)
    path.write_bytes(plan)
    sidecar = Sidecar(
        SCHEMA, engine, made, hashlib.sha256(plan).hexdigest(), len(plan), "rtx", "linux-x86_64", None, 0.5
    )
    path.with_suffix(".json").write_bytes(msgspec.json.encode(sidecar))
    return path


def find(bundle: Bundle, host: Host) -> BuiltEngine:
    return find_engine(bundle, bundle.manifest.purifiers[0], "fp32", host)


def listing(bundle: Bundle, *plans: Path) -> Bundle:
    """The bundle with ``plans`` and their sidecars in its manifest, as ``--into-bundle`` writes it."""
    paths = [path for plan in plans for path in (plan, plan.with_suffix(".json"))]
    files = tuple(File(path.relative_to(bundle.folder).as_posix(), sha256_of(path)) for path in paths)
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, plans=files))
    return Bundle.open(bundle.folder)


@pytest.mark.parametrize("host", [RTX, ORIN])
def test_what_was_built_for_this_host_is_found_in_the_cache(bundle: Bundle, host: Host) -> None:
    path = put(cache_folder(bundle), fingerprint(bundle, host), b"the engine")
    found = find(bundle, host)
    assert (found.plan, found.read()) == (path, b"the engine")


@pytest.mark.parametrize("host", [RTX, ORIN])
def test_what_the_bundle_lists_is_found_in_it(bundle: Bundle, host: Host) -> None:
    path = put(bundle_folder(bundle), fingerprint(bundle, host), b"the engine")
    found = find(listing(bundle, path), host)
    assert (found.plan, found.read()) == (path, b"the engine")


def test_what_the_bundle_does_not_list_is_code_of_anybody(bundle: Bundle) -> None:
    """A plan and a sidecar that fit, beside the ONNX files: whoever can write there would run code."""
    put(bundle_folder(bundle), fingerprint(bundle, ORIN))
    with pytest.raises(BackendError, match=r"none was built for TensorRT yet, and what lies in .* is code"):
        find(bundle, ORIN)


@pytest.mark.parametrize("swapped", [".plan", ".json", "both"])
def test_what_was_put_in_place_of_a_listed_engine_is_not_loaded(bundle: Bundle, swapped: str) -> None:
    path = put(bundle_folder(bundle), fingerprint(bundle, ORIN), b"the engine")
    listed = listing(bundle, path)
    if swapped == ".plan":
        path.write_bytes(b"not it yet")
        with pytest.raises(BackendError, match=r"damaged or changed.*not loaded, since an engine is code"):
            find(listed, ORIN).read()
        return
    if swapped == "both":
        put(bundle_folder(bundle), fingerprint(bundle, ORIN), b"an attacker's")
    else:
        path.with_suffix(".json").write_text("{}")
    with pytest.raises(BackendError, match="none was built for TensorRT yet"):
        find(listed, ORIN)


def test_a_sidecar_alone_is_no_engine(bundle: Bundle) -> None:
    path = put(bundle_folder(bundle), fingerprint(bundle, ORIN))
    sidecar = path.with_suffix(".json")
    files = (File(sidecar.relative_to(bundle.folder).as_posix(), sha256_of(sidecar)),)
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, plans=files))
    with pytest.raises(BackendError, match="none was built for TensorRT yet"):
        find(Bundle.open(bundle.folder), ORIN)


@pytest.mark.parametrize(("host", "board"), [(ORIN, "Jetson AGX Orin"), (AGX, None)])
def test_a_board_that_one_side_could_not_tell_bars_nothing(
    bundle: Bundle, host: Host, board: str | None
) -> None:
    path = put(cache_folder(bundle), fingerprint(bundle, host, board=board))
    assert find(bundle, host).plan == path


def test_the_bundle_comes_before_the_cache(bundle: Bundle) -> None:
    inside = put(bundle_folder(bundle), fingerprint(bundle, RTX))
    put(cache_folder(bundle), fingerprint(bundle, RTX))
    assert find(listing(bundle, inside), RTX).plan == inside


def test_among_engines_of_other_options_the_last_built_or_reused_is_taken(bundle: Bundle) -> None:
    small = put(cache_folder(bundle), fingerprint(bundle, RTX, options={"workspace_mib": 16}))
    large = put(cache_folder(bundle), fingerprint(bundle, RTX, options={"workspace_mib": 4096}))
    os.utime(small, (1000, 1000))
    assert find(bundle, RTX).plan == large
    os.utime(large, (500, 500))
    assert find(bundle, RTX).plan == small


def test_none_built_yet_says_how_to_build(bundle: Bundle) -> None:
    with pytest.raises(
        BackendError, match=r"^engine purifier-00 \(fp32\): none was built for TensorRT yet; "
    ) as e:
        find(bundle, ORIN)
    assert str(e.value).endswith(f"edge-export engines {bundle.folder} --target local --precision fp32")


@pytest.mark.parametrize(
    ("host", "changes", "complaint"),
    [
        (RTX, {"version": "1.6.0"}, "TensorRT-RTX 1.6.0, not this host's TensorRT-RTX 1.7.1.116"),
        (RTX, {"backend": "tensorrt"}, "TensorRT 1.7.1.116, not this host's TensorRT-RTX 1.7.1.116"),
        (RTX, {"capabilities": ("12.0+",)}, r"compute capability 12.0\+, not this host's 8.9"),
        (ORIN, {"version": "10.3.0.26"}, "TensorRT 10.3.0.26, not this host's TensorRT 10.3.0.30"),
        (ORIN16, {"multiprocessors": 8}, "a GPU of 8 multiprocessors, not this host's of 16"),
        (ORIN, {"gpu": "Thor"}, "the GPU Thor, not this host's Orin"),
        (AGX, {"board": "Jetson Orin Nano"}, "the board Jetson Orin Nano, not this host's Jetson AGX Orin"),
        (ORIN, {"capabilities": ("11.0",)}, "compute capability 11.0, not this host's 8.7"),
        (ORIN, {"onnx_sha256": "0" * 64}, "the ONNX file 000000000000…, not the bundle's"),
    ],
)
def test_a_mismatch_names_what_differs_and_the_command(
    bundle: Bundle, host: Host, changes: dict[str, Any], complaint: str
) -> None:
    path = put(cache_folder(bundle), fingerprint(bundle, host, **changes))
    with pytest.raises(
        BackendError, match=rf"{path} was built for {complaint}.*; build it: edge-export engines "
    ):
        find(bundle, host)


def test_of_several_the_nearest_is_named_with_all_its_differences(bundle: Bundle) -> None:
    far = {"version": "10.0.1", "gpu": "Thor", "capabilities": ("11.0",)}
    put(cache_folder(bundle), fingerprint(bundle, ORIN, **far))
    near = {"version": "10.0.1", "gpu": "Thor"}
    put(cache_folder(bundle), fingerprint(bundle, ORIN, **near))
    with pytest.raises(
        BackendError, match=r"built for TensorRT 10\.0\.1, not .* and the GPU Thor, not .*Orin;"
    ):
        find(bundle, ORIN)


def test_a_plan_that_was_changed_is_never_handed_out(bundle: Bundle) -> None:
    path = put(cache_folder(bundle), fingerprint(bundle, RTX), b"the engine")
    path.write_bytes(b"the Engine")
    with pytest.raises(
        BackendError, match=r"purifier-00 .*damaged or changed: expected sha256 .* not loaded"
    ):
        find(bundle, RTX).read()


def test_a_plan_that_is_gone_is_one_clear_line(bundle: Bundle) -> None:
    put(cache_folder(bundle), fingerprint(bundle, RTX)).unlink()
    with pytest.raises(BackendError, match=r"can't be read: No such file .* build it again") as caught:
        find(bundle, RTX).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text[:40],
        lambda text: b"\xff" + text,
        lambda text: text.replace(b'"schema":1', b'"schema":2'),
        lambda text: text.replace(b'"8.0+"', b'"eight"'),
        lambda text: text.replace(b"purifier-00", b"purifier-01"),
    ],
)
def test_a_sidecar_that_is_damaged_or_of_another_engine_counts_as_none(bundle: Bundle, edit: Any) -> None:
    sidecar = put(cache_folder(bundle), fingerprint(bundle, RTX)).with_suffix(".json")
    before = sidecar.read_bytes()
    sidecar.write_bytes(edit(before))
    assert sidecar.read_bytes() != before
    with pytest.raises(BackendError, match="none was built"):
        find(bundle, RTX)


def test_a_cache_that_others_may_write_to_is_not_trusted(bundle: Bundle, cache: Path) -> None:
    put(cache_folder(bundle), fingerprint(bundle, RTX))
    cache.chmod(0o770)
    with pytest.raises(BackendError, match=r"others may write there \(mode 0770\).* chmod 700"):
        find(bundle, RTX)
    with pytest.raises(BackendError, match="others may write"):
        make_cache_folder(bundle)


def test_a_cache_of_someone_else_is_not_trusted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache_folder(bundle), fingerprint(bundle, RTX))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BackendError, match=r"belongs to user \d+, expected 12345: engines are code"):
        find(bundle, RTX)


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container under a user id of its own, which the password file doesn't know."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)


def test_where_no_home_is_known_the_mend_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    without_home(monkeypatch)
    for use in (lambda: find(bundle, RTX), lambda: make_cache_folder(bundle)):
        with pytest.raises(BackendError, match=r"^cache: no home folder is known; set XDG_CACHE_HOME to "):
            use()


def test_a_cache_home_that_is_a_file_is_one_clear_line(bundle: Bundle, cache: Path) -> None:
    cache.parent.write_text("a file")
    with pytest.raises(
        BackendError, match=rf"^{cache}: can't be used as a cache: Not a directory; set XDG_CACHE_HOME to "
    ):
        find(bundle, RTX)


def test_engines_in_the_bundle_need_no_cache(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(bundle_folder(bundle), fingerprint(bundle, RTX))
    bundle = listing(bundle, path)
    without_home(monkeypatch)
    assert find(bundle, RTX).plan == path


def test_the_cache_is_for_its_user_alone(bundle: Bundle, cache: Path) -> None:
    old = os.umask(0)
    try:
        folder = make_cache_folder(bundle)
    finally:
        os.umask(old)
    assert folder == cache / "engines" / "tiny"
    assert [path.stat().st_mode & 0o777 for path in (cache, folder.parent, folder)] == [0o700] * 3


@pytest.mark.parametrize("setting", ["", "not/absolute"])
def test_a_cache_home_that_is_not_absolute_is_ignored(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", setting)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(bundle) == tmp_path / ".cache" / "edge-purify" / "engines" / "tiny"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "tensorrt"),
        ("version", "1.7.2"),
        ("onnx_sha256", "f" * 64),
        ("precision", "int8"),
        ("capabilities", ("8.6",)),
        ("gpu", "Orin"),
        ("board", "Jetson AGX Orin"),
        ("options", {"workspace_mib": 1024}),
    ],
)
def test_every_field_is_in_the_key(field: str, value: Any) -> None:
    made = Fingerprint("tensorrt-rtx", "1.7.1", "0" * 64, "fp16", ("8.0+",), None, {"workspace_mib": 512})
    assert msgspec.structs.replace(made, **{field: value}).key != made.key


def test_the_order_of_options_is_not_in_the_key() -> None:
    one, other = (
        Fingerprint("tensorrt", "10.3", "0" * 64, "fp16", ("8.7",), "Orin", options)
        for options in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    )
    assert one.key == other.key


@given(name=st.text(max_size=120), engine=st.text(max_size=120))
def test_no_name_leads_out_of_its_folder(tiny_bundle: Path, name: str, engine: str) -> None:
    opened = Bundle.open(tiny_bundle)
    opened.manifest = msgspec.structs.replace(opened.manifest, name=name)
    folder = cache_folder(opened)
    made = Fingerprint("tensorrt", "10.3", "0" * 64, "fp16", ("8.7",))
    path = plan_path(folder, engine, made)
    assert Path(os.path.normpath(path)) == path
    assert path.parent == folder
    assert folder.parent.name == "engines"
    assert len(path.name) < 200


def test_names_that_look_alike_as_files_stay_apart(bundle: Bundle) -> None:
    made = fingerprint(bundle, RTX)
    paths = {plan_path(Path(), name, made) for name in ("a b", "a/b", "a_b", "a:b", "..", ".", "")}
    assert len(paths) == 7


@pytest.mark.parametrize(
    ("capabilities", "gpu", "expected"),
    [
        (("8.0+",), "8.0", True),
        (("8.0+",), "12.0", True),
        (("8.0+",), "7.5", False),
        (("8.7",), "8.7", True),
        (("8.7",), "8.9", False),
        (("8.6", "8.9"), "8.9", True),
        (("10.0+",), "8.9", False),
    ],
)
def test_capabilities_are_compared_as_numbers(
    capabilities: tuple[str, ...], gpu: str, expected: bool
) -> None:
    assert covers(capabilities, gpu) is expected


def test_the_command_can_be_pasted(bundle: Bundle) -> None:
    bundle.folder = Path("/my bundles/it's")
    assert (
        build_command(bundle, "tensorrt-rtx", "int8")
        == "edge-export engines '/my bundles/it'\"'\"'s' --target rtx --precision int8"
    )


def test_an_engine_of_another_precision_is_not_taken(bundle: Bundle) -> None:
    put(cache_folder(bundle), fingerprint(bundle, RTX, precision="fp16"))
    engine = bundle.manifest.purifiers[0]
    both = msgspec.structs.replace(
        engine, onnx={**engine.onnx, "fp16": File("x", engine.onnx["fp32"].sha256)}
    )
    assert find_engine(bundle, both, "fp16", RTX).read() == b"plan"
    with pytest.raises(BackendError, match="none was built"):
        find_engine(bundle, both, "fp32", RTX)
