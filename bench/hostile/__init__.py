"""Bad clients of ``examples/serve.py``, on this machine alone."""
