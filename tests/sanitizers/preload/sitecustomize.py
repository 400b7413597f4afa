"""Python imports this first where its folder is on the path. ``pdrec_fast._C`` is then the file
that ``PDREC_SANITIZED`` names, in child processes too."""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "pdrec_fast._C":
            return spec_from_file_location(fullname, os.environ["PDREC_SANITIZED"])
        return None


sys.meta_path.insert(0, _Finder())
