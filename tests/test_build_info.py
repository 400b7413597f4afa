"""What can run here, and why not."""

import shutil
import sys

import pytest

import pdrec_fast  # noqa: F401

build_info = sys.modules["pdrec_fast.build_info"]  # the name in the package is the function


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler is here")
def test_the_extension_is_built_where_there_is_a_compiler():
    """Otherwise every test of it would be left out, and nobody would see."""
    assert build_info.extension_problem is None


def test_triton_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setattr(build_info, "find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert build_info.triton_problem("cuda") is None
    assert "'cpu'" in build_info.triton_problem("cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert build_info.triton_problem("cpu") is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_triton_the_reason_says_so(monkeypatch, device):
    monkeypatch.setattr(build_info, "find_spec", lambda name: None)
    assert "not installed" in build_info.triton_problem(device)
