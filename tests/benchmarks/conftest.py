"""The benchmarks are no installed package: whoever tests them finds them from the root."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent.parent))
