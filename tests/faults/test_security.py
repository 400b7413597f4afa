"""Files that were made to do harm: none runs code, leads out of its folder, or fills the memory."""

import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.data import item_features, sources
from pdrec_fast.data.sources import COMPRESSIONS, KINDS
from pdrec_fast.export.nearest import ItemIndex
from pdrec_fast.files import checksum, same_place, write_json, write_text
from pdrec_fast.fitting.bundle import MANIFEST, _manifest_checksum, read_bundle, write_bundle
from pdrec_fast.presets.tuned import read_tuned
from pdrec_fast.studies.finished import FinishedJob

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("pdrec_fast", "kernels", "bench", "examples", "release", "docs")
NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
REFUSED = (pf.PDRecError, ValueError, TypeError, FileNotFoundError)


def calls_of(text: str) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of Python source that runs code which data can bring along."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = [alias.name for alias in node.names]
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in found:
                if name.split(".")[0] in MODULES:
                    yield node.lineno, f"import of {name}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in NAMES or name.split(".")[0] in MODULES or name in {"os.system", "os.popen"}:
            yield node.lineno, f"call of {name}"
        if name.endswith("torch.load") and given.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if given.get("shell", "False") != "False":
            yield node.lineno, "a command through a shell"
        if given.get("allow_pickle", "False") != "False":
            yield node.lineno, "NumPy's pickles"


def test_nothing_that_is_shipped_runs_code_of_data() -> None:
    files = [file for folder in SHIPPED for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    found = [
        f"{file.relative_to(ROOT)}:{line}: {what}"
        for file in files
        for line, what in calls_of(file.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from yaml import load", "eval('1')", "exec(text)", "yaml.load(f)"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "pickle.loads(b'')"),
        *("subprocess.run(words, shell=True)", "np.load(f, allow_pickle=True)", "os.system('')"),
        "read_array(f, allow_pickle=wanted)",
    ],
)
def test_the_search_finds_them(line: str) -> None:
    assert len(list(calls_of(line))) >= 1
    assert not list(calls_of("torch.load(path, weights_only=True); model.eval(); re.compile('')"))


class Harm:
    """What a pickle of it does when it is read: a file appears."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.at), "w")


def hostile(kind: str, at: Path) -> bytes:
    """A file that runs code in whoever believes it."""
    stream = io.BytesIO()
    if kind == "pickle":
        pickle.dump(Harm(at), stream)
    elif kind == "torch":
        torch.save({"weight": Harm(at)}, stream)
    else:
        np.save(stream, np.array([Harm(at)], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that is saved."""
    folder = tmp_path_factory.mktemp("saved")
    data = pf.synthetic(n_users=60, n_items=120, seed=1)
    model = pf.DiffRec(hidden=(6,), epochs=1, device="cpu").fit(data, progress=False)
    model.save(folder / "model")
    options: dict[str, Any] = {"top_m": 5, "n_draws": 4, "progress": False}
    pf.Preferences.infer(model, data, **options).save(folder / "preferences")
    pf.Preferences.infer_parts(
        model, data, folder / "parts", part_size=16, block_size=16, **options
    )
    pytest.importorskip("duckdb")
    users, items = data.user_ids[data.record_users], data.item_ids[data.items]
    rows = "".join(f"{u},{i}\n" for u, i in zip(users, items, strict=True))
    (folder / "data.csv").write_text("user_id,item_id\n" + rows)
    pf.prepare(folder / "data.csv", folder / "store", parts=2)
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "model": lambda path: pf.DiffRec.load(path, device="cpu"),
    "preferences": pf.Preferences.load,
    "parts": pf.Preferences.load,
    "store": pf.Interactions.from_store,
}


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        return Path(shutil.copytree(saved / name, tmp_path / name))

    return made


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
@pytest.mark.parametrize("name", list(READERS))
def test_code_in_the_place_of_a_saved_file(
    name: str, kind: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, harm = copy(name), tmp_path / "harm"
    for file in sorted(folder.iterdir()):
        sound = file.read_bytes()
        file.write_bytes(hostile(kind, harm))
        if (folder / MANIFEST).exists() and file.name != MANIFEST:  # with a checksum that fits
            rewrite(folder, lambda manifest, file=file: sums(manifest, file))
        with pytest.raises(REFUSED):
            READERS[name](folder)
        assert not harm.exists()
        file.write_bytes(sound)


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
def test_code_under_every_name_that_is_read(kind: str, tmp_path: Path) -> None:
    harm, content = tmp_path / "harm", hostile(kind, tmp_path / "harm")
    names = [f"data{kind}" for kind in KINDS] + [f"data.csv{end}" for end in COMPRESSIONS]
    for number, name in enumerate(names):
        file = tmp_path / f"{number}" / name
        file.parent.mkdir()
        file.write_bytes(content)
        for read in (
            pf.Interactions.from_file,
            item_features.read_item_features,
            read_tuned,
            pf.PDRec.load,
        ):
            with pytest.raises(REFUSED):
                read(file)
    marker = {"job": {}, "preset": "", "fingerprint": "", "settings": [], "config": {}}
    job = FinishedJob(tmp_path, None, "", marker)  # type: ignore[arg-type]
    (tmp_path / "cases.npz").write_bytes(content)
    with pytest.raises(pf.CheckpointError, match=r"cases\.npz: damaged"):
        _ = job.records
    assert not harm.exists()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a bundle's manifest, and its checksum with it."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    manifest["checksum"] = _manifest_checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def sums(manifest: dict[str, Any], file: Path) -> None:
    manifest["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()


def test_bundles_that_lead_out_of_their_folder(tmp_path: Path) -> None:
    tensors = {"weights": {"w": torch.arange(3)}}
    write_bundle(tmp_path / "theirs", "model", {}, tensors)
    write_bundle(tmp_path / "mine", "model", {}, tensors)
    theirs, folder = tmp_path / "theirs" / "weights.safetensors", tmp_path / "mine"
    names = ["../theirs/weights.safetensors", str(theirs), "..", ""]
    for name in names:
        rewrite(folder, lambda m, name=name: m.update(files={name: checksum(theirs)}))
        with pytest.raises(pf.CheckpointError, match=r"which is no file of this folder"):
            read_bundle(folder, "model")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "nowhere"])
def test_bundles_that_name_a_file_that_cannot_be(tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path, "model", {}, {"weights": {"w": torch.arange(3)}})
    rewrite(tmp_path, lambda m: m.update(files={name: ""}))
    with pytest.raises(pf.CheckpointError, match=r": missing"):
        read_bundle(tmp_path, "model")


def test_a_link_to_what_was_saved_is_read(tmp_path: Path) -> None:
    """As caches of models and DVC lay them."""
    write_bundle(tmp_path / "model", "model", {}, {"weights": {"w": torch.arange(3)}})
    (tmp_path / "model" / "weights.safetensors").rename(tmp_path / "blob")
    (tmp_path / "model" / "weights.safetensors").symlink_to(tmp_path / "blob")
    assert torch.equal(read_bundle(tmp_path / "model", "model")[1]["weights"]["w"], torch.arange(3))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("parts", "part-000001.safetensors"),
        ("store", "part-00001.items.npy"),
        ("store", "item_ids.npy"),
    ],
)
def test_links_in_folders_of_parts(
    name: str, file: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy(name)
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(pf.PDRecError, match=rf"{file}: is a link, and .*copy them into"):
        READERS[name](folder)


@pytest.mark.parametrize("name", ["../part-00000", "/etc/part-00000", "part-00000/..", ""])
def test_cards_of_stores_that_lead_out(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy("store")
    card = json.loads((folder / "store.json").read_text())
    card["parts"][0]["name"] = name
    (folder / "store.json").write_text(json.dumps(card))
    with pytest.raises(pf.DataError, match="is no name of a part"):
        pf.Interactions.from_store(folder)


def test_an_index_that_leads_out(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    ItemIndex.build(matrix).save(tmp_path / "index")
    card = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(card | {"files": {"../harm": ""}}))
    with pytest.raises(pf.CheckpointError, match=r"damaged .files are not"):
        ItemIndex.load(tmp_path / "index", matrix)


def test_a_description_of_more_parts_than_memory_has(copy: Callable[[str], Path]) -> None:
    folder = copy("parts")
    job = json.loads((folder / "job.json").read_text())
    write_json(folder / "job.json", job | {"n_users": 10**30})
    with pytest.raises(pf.CheckpointError, match=r"4 of 6\d+ parts are there"):
        pf.Preferences.load(folder)


def test_links_that_would_lead_writing_elsewhere(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    folder.mkdir()
    (folder / ".a.json.new").symlink_to(precious)
    write_text(folder / "a.json", "text")
    (folder / "b.json").symlink_to(precious)
    write_text(folder / "b.json", "text")
    assert precious.read_text() == "mine"
    (tmp_path / "outside").mkdir()
    (folder / "model").symlink_to(tmp_path / "outside")
    with same_place(folder), pytest.raises(pf.WriteError, match="a link leads out of the folder"):
        write_bundle(folder / "model", "model", {}, {})
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("content", [b"\0", b"user_id,item_id\n1,2\n"])
def test_files_that_unpack_to_far_more(
    content: bytes, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_ALWAYS_UNPACKED", 1 << 16)
    file, block = tmp_path / f"d.csv{compression}", content * (1 << 20)
    if compression == ".gz":
        file.write_bytes(gzip.compress(block))
    elif compression == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("d.csv", block)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        with pyarrow.CompressedOutputStream(os.fspath(file), "zstd") as stream:
            stream.write(block)
    with pytest.raises(pf.DataError, match=r"unpacks to more than 100 times its size"):
        pf.Interactions.from_file(file)
