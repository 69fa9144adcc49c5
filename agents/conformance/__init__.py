"""Golden vectors and property checks for anybody's returns, GAE, KL, masks, padding, truncation and bootstrapping.

`python -m agents.conformance MODULE:FUNCTION` says which property a function breaks; `judge` is the same from Python. The vectors are
JSON (`vectors/`), and nothing of ours is called: what is judged against is arithmetic that fits in a sentence.
"""

from .calls import Calling, Misuse
from .judge import BROKEN, KEPT, UNTOLD, Report, Verdict, judge
from .kinds import Kind, load, names

__all__ = ["BROKEN", "KEPT", "UNTOLD", "Calling", "Kind", "Misuse", "Report", "Verdict", "judge", "load", "names"]
