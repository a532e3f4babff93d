"""What needs torch is left out by the tests where that is missing."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["torch_*.py"]
