"""``python -m pdrec_fast`` is the command ``pdrec-fast``."""

from pdrec_fast.cli import main

main()
