"""Metadata lives in pyproject.toml; this file maps packages and builds the C++ extension."""

from setuptools import find_packages, setup

packages = find_packages(include=["pdrec_fast", "pdrec_fast.*"])
kernel_packages = ["kernels", *(f"kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=packages + [f"pdrec_fast.{name}" for name in kernel_packages],
    package_dir={"pdrec_fast": "pdrec_fast", "pdrec_fast.kernels": "kernels"},
)
