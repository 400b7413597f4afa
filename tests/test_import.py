"""What importing the package needs, does and leaves alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pdrec_fast as pf
from pdrec_fast import errors

PACKAGE = Path(__file__).resolve().parents[1] / "pdrec_fast"

# A package imports only from those to its left in this list, and from itself.
LAYERS = [
    {"errors"},
    {
        *("checks", "deprecation", "devices", "isolation"),
        *("operands", "ragged", "settings", "thread_pool"),
    },
    {"files"},
    {
        *("buffers", "build_info", "part_jobs", "profiling"),
        *("random_keys", "settings_format", "sole_user"),
    },
    {"ranks"},
    {"reference", "kernels", "_C"},
    {"ops"},
    {"data", "fitting"},
    {"evaluation"},
    {"recommending"},
    {"diffusion", "preferences", "encoders"},
    {"baselines", "fusion"},
    {"export"},
    {"training"},
    {"presets"},
    {"pipeline"},
    {"options"},
    {"commands"},
    {"demo", "studies", "tuning"},
    {"cli"},
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )


def test_import_needs_no_extra():
    extras = ["triton", "duckdb", "pandas", "polars", "pyarrow", "sklearn", "scipy", "matplotlib"]
    extras += ["optuna", "sqlalchemy", "jinja2", "tensorboard"]
    extras += ["onnx", "onnxscript", "onnxruntime", "faiss", "fastapi", "uvicorn"]
    absent = f"import sys; sys.modules.update(dict.fromkeys({extras}))"
    result = python(f"{absent}; import pdrec_fast.cli")
    assert result.returncode == 0, result.stderr


def test_import_initialises_no_cuda_and_loads_no_compiler():
    result = python(
        "import sys, torch, pdrec_fast\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not {'numba', 'triton'} & sys.modules.keys(), 'loaded at import'"
    )
    assert result.returncode == 0, result.stderr


def test_the_command_and_a_run_need_nothing_that_windows_lacks():
    result = python(
        "import sys; sys.modules.update(dict.fromkeys(['fcntl', 'resource']))\n"
        "import pdrec_fast as pf, pdrec_fast.cli\n"
        "data = pf.synthetic(n_users=40, n_items=150, seed=0)\n"
        "fast = {'diffusion.epochs': 1, 'diffusion.hidden': 8, 'n_draws': 4, 'pdrec.epochs': 1}\n"
        "config = pf.with_settings(pf.RunConfig(), fast | {'encoder.width': 8})\n"
        "metrics = pf.run(data, config, progress=False).metrics\n"
        "assert metrics['peak_rss_gib'] is None\n"
        "text = pdrec_fast.cli._metrics_text(metrics, None)\n"
        "assert 'seconds: ' in text and 'GiB' not in text, text\n"
    )
    assert result.returncode == 0, result.stderr


def test_examples_import_from_the_top_alone():
    for path in PACKAGE.parent.glob("examples/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [
                alias.name for alias in getattr(node, "names", ()) if isinstance(node, ast.Import)
            ]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            below = [name for name in names if name.startswith("pdrec_fast.")]
            assert not below, f"{path.name} imports {below}"


def test_every_error_of_the_package_is_exported_and_below_one():
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, Exception):
            assert issubclass(error, pf.PDRecError)
            assert name in pf.__all__
    former = {
        pf.DataError: ValueError,
        pf.BackendError: RuntimeError,
        pf.CheckpointError: RuntimeError,
        pf.NotFittedError: RuntimeError,
        pf.MissingExtraError: ImportError,
        pf.NonFiniteScoresError: ValueError,
        pf.NonFiniteLossError: FloatingPointError,
        pf.WriteError: OSError,
        pf.RankLostError: RuntimeError,
    }
    for error, base in former.items():
        assert issubclass(error, base)


def test_without_the_extension_everything_runs_on_the_reference():
    result = python(
        "import sys; sys.modules['pdrec_fast._C'] = None\n"
        "import pdrec_fast as pf\n"
        "info = pf.build_info()\n"
        "assert not info['extension'] and 'pip install' in info['problem'], info\n"
        "split = pf.leave_one_out(pf.synthetic(n_users=40, n_items=150, seed=0))\n"
        "model = pf.DiffRec(hidden=(8,), epochs=1, lr=1e-3).fit(split, progress=False)\n"
        "p = pf.Preferences.infer(model, split.train, n_draws=4, top_m=3, progress=False)\n"
        "assert p.top_items.shape == (40, 3)\n"
    )
    assert result.returncode == 0, result.stderr
    assert "not using impl='cpp'" in result.stderr


def test_imports_point_one_way():
    level = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").parts
        if module[0] in ("__init__", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "pdrec_fast."
            ):
                continue
            target = node.module.split(".")[1]
            if target != module[0] and level[target] >= level[module[0]]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {node.module}")
    assert not wrong
