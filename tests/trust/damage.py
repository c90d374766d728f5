"""What can become of a file on its way, and what a reader may do about it."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Derandomized, so that a run of the tests is the same everywhere; the slow tests draw anew.
QUICK = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, max_examples=400, derandomize=False, print_blob=True)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut off, changed in places, with a part lost, doubled or replaced by junk."""
    size = len(content)
    kinds = ["cut", "cut", "flip", "flip", "flip", "lose", "junk", "zero", "swap", "text"]
    what = draw(st.sampled_from(kinds))
    at = draw(st.integers(0, max(0, size - 1)))
    length = draw(st.integers(1, 64))
    if what == "cut":
        return content[:at]
    if what == "flip":
        changed = bytearray(content)
        for place in draw(st.lists(st.integers(0, max(0, size - 1)), min_size=1, max_size=4)):
            changed[place] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if what == "lose":
        return content[:at] + content[at + length :]
    if what == "zero":
        return content[:at] + bytes(length) + content[at + length :]
    if what == "swap":
        other = draw(st.integers(0, max(0, size - 1)))
        low, high = sorted((at, other))
        part = content[low : low + length]
        return content[:high] + part + content[high + length :]
    if what == "text":
        word = draw(
            st.sampled_from(
                [b"nan", b"-1", b"1e999", b"99999999999999999999", b"{", b"]", b'"', b"\n", b"null"]
            )
        )
        return content[:at] + word + content[at + len(word) :]
    return content[:at] + draw(st.binary(max_size=64)) + content[at:]


def numbers_replaced(content: bytes) -> st.SearchStrategy[bytes]:
    """A text whose words are exchanged for others of a kind that no writer means."""
    words = [m.span() for m in re.finditer(rb"[-+.\w]+", content)]
    odd = [b"nan", b"inf", b"-1", b"0", b"1e400", b"9" * 25, b"x", b"[]", b"{}", b"null", b""]

    def replaced(picks: list[tuple[int, bytes]]) -> bytes:
        changed = content
        for k, word in sorted(picks, reverse=True):
            start, end = words[k]
            changed = changed[:start] + word + changed[end:]
        return changed

    pick = st.tuples(st.integers(0, len(words) - 1), st.sampled_from(odd))
    return st.lists(pick, min_size=1, max_size=3, unique_by=lambda p: p[0]).map(replaced)


def told(read: Callable[[], object], *names: str) -> str | None:
    """The sentence with which ``read`` refuses a file, None where it reads it.

    Any other end than ValueError or OSError fails the test, as does a sentence that names none of
    ``names``, or is longer than a paragraph.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except (ValueError, OSError) as error:
            sentence = str(error)
            assert any(name in sentence for name in names), (
                f"{type(error).__name__} names none of {names}: {sentence!r}"
            )
            assert len(sentence) < 1500, sentence
            return sentence
    return None


def leftovers(folder: Path) -> list[str]:
    """Files that a writer has put aside and not finished."""
    return sorted(p.name for p in folder.rglob("*") if ".part" in p.name)
