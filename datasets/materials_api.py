"""The Materials Project's own interface: asked in chunks, each kept, so that one can go on."""

import gzip
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pyg_schnet.datasets.crystal_sources import Row, record_row
from pyg_schnet.datasets.crystal_structure import Refused
from pyg_schnet.datasets.sources import in_brief, is_of_disk, limited

FIELDS = (
    "material_id",
    "structure",
    "formation_energy_per_atom",
    "energy_above_hull",
    "band_gap",
    "nsites",
)
CHUNK = 500
"""Crystals in one request: longer lists of ids make addresses that servers refuse."""
_WHERE = "https://next-gen.materialsproject.org/api"


def find_key(api_key: str | None = None) -> str:
    """The user's key: as given, from MP_API_KEY, or from pymatgen's settings (PMG_MAPI_KEY).

    Raises:
        ValueError: if there is none; says where to get one.
    """
    key = api_key or os.environ.get("MP_API_KEY")
    if not key:
        try:
            from pymatgen.core import SETTINGS
        except ImportError:
            SETTINGS = {}
        key = SETTINGS.get("PMG_MAPI_KEY")
    if not key:
        raise ValueError(
            f"the Materials Project asks for a key: get one at {_WHERE} (free, after login) and "
            f"pass api_key= or set the environment variable MP_API_KEY; or pass raw= with a "
            f"snapshot, which needs none"
        )
    return str(key)


def open_rester(api_key: str) -> Any:
    """An ``MPRester`` of mp-api that returns plain dictionaries.

    Raises:
        ImportError: if mp-api is not installed.
    """
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise ImportError(
            "the Materials Project is asked by mp-api: pip install 'pyg_schnet[crystals]'"
        ) from error
    return MPRester(api_key, use_document_model=False, mute_progress_bars=True)


class Query:
    """One question to the Materials Project, and the answers to it so far.

    In ``folder/api-<hash of the question>`` stand ``request.json`` (the ids of all crystals that
    it is about, and the version of the database) and one ``00000.json.gz`` per chunk of 500
    crystals, each whole or absent. A chunk is asked for by its ids, so that crystals are neither
    doubled nor missed when the database changes in between.

    Args:
        folder: Where to keep them.
        targets: Further fields of the summary documents, beside :data:`FIELDS`.
        search: Criteria, as arguments of ``MPRester.materials.summary.search``; "material_ids" are
            asked for as they are.
    """

    def __init__(
        self, folder: Path, targets: Sequence[str] = (), search: Mapping[str, Any] | None = None
    ) -> None:
        self.fields = list(dict.fromkeys([*FIELDS, *targets]))
        self.search = dict(search or {})
        told = json.dumps([self.fields, self.search], sort_keys=True, default=str)
        self.folder = folder / f"api-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def fetch(self, api_key: str | None = None) -> None:
        """Asks for all that is not here yet; a second call after a failure goes on.

        Raises:
            ValueError: if there is no key, the key or the question is refused, or nothing fits.
            ConnectionError: if the server cannot be reached or fails; chunks so far are kept.
            ImportError: if mp-api is not installed.
        """
        request = self._request()
        if request is not None and not self._missing(request):
            return
        key = find_key(api_key)
        with self._errors():
            rester = open_rester(key)
        version = str(getattr(rester, "db_version", "") or "")
        if request is None:
            request = {"ids": self._ids(rester), "database_version": version}
            _write(self.folder / "request.json", json.dumps(request).encode())
        elif version and request["database_version"] not in ("", version):
            warnings.warn(
                f"the Materials Project is at version {version} now and the first chunks are of "
                f"{request['database_version']}: delete {self.folder} to have all from one",
                stacklevel=2,
            )
        self._fetch_chunks(rester, request)

    def rows(self) -> Iterator[Row]:
        """What has been fetched, in the order of the ids; those not answered are refused."""
        request = self._request()
        assert request is not None
        for k in range(_count(request)):
            path = self._path(k)
            found = {}
            for record in _read(path):
                row = record_row(record)
                found[row.material_id] = row
            for name in _ids_of(request, k):
                # An id that was given a new one since comes back under that one.
                row = found.pop(name, None)
                if row is not None:
                    yield row
                elif not found:
                    yield Row(name, Refused("not in the Materials Project"), {})
            yield from found.values()

    def _path(self, k: int) -> Path:
        return self.folder / f"{k:05d}.json.gz"

    def _request(self) -> dict[str, Any] | None:
        path = self.folder / "request.json"
        if not path.is_file():
            return None
        try:
            request: dict[str, Any] = json.loads(path.read_bytes())
            ids = request["ids"]
            if not (isinstance(ids, list) and all(isinstance(name, str) for name in ids)):
                raise ValueError("ids must be a list of names")
            request.setdefault("database_version", "")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({in_brief(error)}): delete {self.folder} and ask again"
            ) from error
        return request

    def _missing(self, request: Mapping[str, Any]) -> list[int]:
        return [k for k in range(_count(request)) if not self._path(k).is_file()]

    def _ids(self, rester: Any) -> list[str]:
        given = self.search.get("material_ids")
        if given is not None:
            ids = [given] if isinstance(given, str) else [str(name) for name in given]
        else:
            # Without any criterion mp-api would download whole tables with all fields.
            criteria = {"deprecated": False, **self.search}
            with self._errors():
                found = rester.materials.summary.search(
                    fields=["material_id"], chunk_size=1000, **criteria
                )
            ids = [str(_plain(document)["material_id"]) for document in found]
        if not ids:
            raise ValueError(f"search={self.search!r} finds no crystal: ask for others")
        return list(dict.fromkeys(ids))

    def _fetch_chunks(self, rester: Any, request: Mapping[str, Any]) -> None:
        missing, total = self._missing(request), len(request["ids"])
        done = total - sum(len(_ids_of(request, k)) for k in missing)
        bar = tqdm(
            desc="Materials Project", total=total, initial=done, unit=" crystals", disable=None
        )
        with bar:
            for k in missing:
                ids = _ids_of(request, k)
                with self._errors(f"{done} of {total} crystals are here"):
                    found = rester.materials.summary.search(
                        material_ids=ids, fields=self.fields, chunk_size=len(ids)
                    )
                documents = [_plain(document) for document in found]
                text = json.dumps(documents, default=str).encode()
                _write(self._path(k), gzip.compress(text, 6, mtime=0))
                done += len(ids)  # a bar that is not shown does not count
                bar.update(len(ids))

    def _errors(self, progress: str = "nothing is here yet") -> "_Errors":
        return _Errors(progress, self.folder)


class _Errors:
    """Turns what mp-api and requests raise into one sentence and a built-in type."""

    def __init__(self, progress: str, folder: Path) -> None:
        self._progress, self._folder = progress, folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # mp-api's error is a plain Exception; those of requests are OSErrors.
        if error is None or isinstance(error, ImportError) or not isinstance(error, Exception):
            return
        told = str(error).strip().splitlines()
        what = told[0] if told else type(error).__name__
        if any(f"status code {code}" in str(error) for code in (401, 403)) or "API key" in what:
            raise ValueError(
                f"the Materials Project refused the key ({what}): get a valid one at {_WHERE}"
            ) from error
        if any(word in str(error) for word in ("invalid fields", "unknown to", "does not support")):
            raise ValueError(f"the Materials Project refused the question: {error}") from error
        raise ConnectionError(
            f"the Materials Project could not be asked ({type(error).__name__}: {what}); "
            f"{self._progress}, in {self._folder}: call again to go on"
        ) from error


def _count(request: Mapping[str, Any]) -> int:
    return -(-len(request["ids"]) // CHUNK)


def _ids_of(request: Mapping[str, Any], k: int) -> list[str]:
    ids: list[str] = request["ids"][k * CHUNK : (k + 1) * CHUNK]
    return ids


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        with limited(gzip.open(path), path) as file:
            records = json.loads(file.read())
        if not (isinstance(records, list) and all(isinstance(one, dict) for one in records)):
            raise ValueError("a list of objects is expected")
    except Exception as error:  # gzip, zlib and JSON raise whatever the bytes lead to
        if is_of_disk(error):
            raise
        raise ValueError(
            f"{path} is damaged ({in_brief(error)}): delete it, and it is asked for again"
        ) from error
    return records


def _plain(document: Any) -> dict[str, Any]:
    # Versions of mp-api differ in whether they return documents and Structures.
    record = dict(document if isinstance(document, Mapping) else document.model_dump())
    structure = record.get("structure")
    if structure is not None and not isinstance(structure, str | Mapping):
        record["structure"] = structure.as_dict()
    return record


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
