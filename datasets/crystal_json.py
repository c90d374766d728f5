"""JSON files larger than memory: one row after the other."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

from pyg_schnet.datasets.sources import in_brief, is_of_disk

_BLOCK = 1 << 22
_LONGEST = 1 << 28  # characters of one value


class JsonStream:
    """Reads the values of a JSON text in turn, of each array one element at a time.

    Args:
        file: The text, opened.
        name: What to call it in errors.

    Raises:
        ValueError: in all methods, if the text is cut off or is no JSON.

    >>> import io
    >>> list(JsonStream(io.StringIO('[{"a": 1}, [2, 3], "x"]'), "example").array())
    [{'a': 1}, [2, 3], 'x']
    """

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._at, self._is_over = "", 0, False
        self._decode = json.JSONDecoder().raw_decode
        self._count = 0

    def _more(self) -> bool:
        if self._is_over:
            return False
        # As much again as is left over: a long value is tried a few times, not at every block.
        left = self._text[self._at :]
        try:
            block = self._file.read(max(_BLOCK, len(left)))
        except Exception as error:  # zipfile and the decoders raise whatever the bytes lead to
            if is_of_disk(error) or "unpacks to" in str(error):
                raise
            self._fail(in_brief(error))
        self._is_over = not block
        self._text, self._at = left + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is no space, "" at the end; it is not passed."""
        while True:
            text, end = self._text, len(self._text)
            while self._at < end and text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < end or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, allowed: str) -> str:
        """Passes the next character, which must be one of those allowed."""
        found = self.peek()
        if not found or found not in allowed:
            self._fail(f"{found!r} where one of {allowed} should be")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            start = self._at
            try:
                value, end = self._decode(self._text, start)
            except (ValueError, RecursionError) as error:  # also of numbers of 4,300 digits
                if len(self._text) - start > _LONGEST or not self._more():
                    self._fail(in_brief(error))
                continue
            # A number may go on in the next block.
            if end == len(self._text) and self._more():
                continue
            self._at += end - start
            self._count += 1
            return value

    def array(self) -> Iterator[Any]:
        """The elements of the array that is next."""
        self.take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def keys(self) -> Iterator[str]:
        """The keys of the object that is next; after each, its value has to be taken."""
        self.take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            key = self.value()
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(
            f"{self._name} is cut off or no JSON after {self._count} values ({what}): get the "
            f"file anew"
        )


def read_records(open_file: Callable[[], TextIO], name: str) -> Iterator[dict[str, Any]]:
    """Rows of a table in JSON, as a list of objects or in the layout of pandas' ``split``.

    The latter, ``{"index": [...], "columns": [...], "data": [[...], ...]}``, is that of matbench;
    the index becomes ``"index"`` of the row.

    Args:
        open_file: Opens the text; called again where the columns stand after the data.
        name: What to call it in errors.

    Raises:
        ValueError: if it is damaged or in another layout.
    """
    with open_file() as file:
        stream = JsonStream(file, name)
        first = stream.peek()
        if first == "[":
            for k, record in enumerate(stream.array()):
                if not isinstance(record, dict):
                    raise ValueError(
                        f"{name} is a list whose element {k} is a {type(record).__name__}: "
                        f"objects with a structure are needed"
                    )
                yield record
            return
    if first != "{":
        raise ValueError(f"{name} is no JSON table: it starts with {first!r}")
    head: dict[str, Any] = {}
    for _ in range(2):
        with open_file() as file:
            stream = JsonStream(file, name)
            for key in stream.keys():  # noqa: SIM118
                if key != "data":
                    head[key] = stream.value()
                elif "columns" in head and "index" in head:
                    yield from _split_rows(head, stream.array(), name)
                    return
                else:
                    for _ in stream.array():
                        pass
        if "columns" not in head:
            raise ValueError(
                f"{name} holds an object with {', '.join(list(head)[:5])}: a list of objects, or "
                f"columns, index and data, are needed"
            )
        head.setdefault("index", ())


def _split_rows(
    head: dict[str, Any], rows: Iterator[list[Any]], name: str
) -> Iterator[dict[str, Any]]:
    columns, index = head["columns"], head["index"]
    named = isinstance(columns, list) and all(isinstance(column, str) for column in columns)
    if not named or not isinstance(index, list | tuple):
        raise ValueError(f"{name}: columns must be a list of names, and index a list")
    for k, row in enumerate(rows):
        if not isinstance(row, list):
            raise ValueError(f"{name}: row {k} is a {type(row).__name__} and not a list")
        if len(row) != len(columns):
            raise ValueError(f"{name}: row {k} has {len(row)} values for {len(columns)} columns")
        yield {"index": index[k] if k < len(index) else k, **dict(zip(columns, row, strict=True))}
