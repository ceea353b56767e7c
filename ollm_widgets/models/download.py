"""From the hub to this machine: only what a runtime needs, resumed, checked, never half."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from ollm_widgets import settings
from ollm_widgets.errors import OutOfMemory
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.crew import Crew, Task
from ollm_widgets.models.digests import content_digest, remember_digest
from ollm_widgets.models.download_errors import DownloadErrors
from ollm_widgets.models.download_home import Home, HubCacheHome, ManagedHome, folder_name
from ollm_widgets.models.download_progress import Tally
from ollm_widgets.models.file_lock import acquire
from ollm_widgets.models.hub_cache import default_hub_cache, hub_address, is_repo_id
from ollm_widgets.models.hub_listing import HubFile, HubListing, is_safe_revision
from ollm_widgets.models.hub_requests import ask_for_files, request_headers
from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.runtime_files import (
    CONFIG_NAME,
    StagedFiles,
    gguf_names,
    likely_weights,
    small_files,
)
from ollm_widgets.models.safety import check_code, check_weight_formats
from ollm_widgets.models.tensors import INDEX_NAME, MAX_INDEX_BYTES, shards_of_index
from ollm_widgets.models.transfer import Transfer, partial_path, start_digest
from ollm_widgets.render.units import format_bytes

WORKERS = 4
_MARGIN_BYTES = 64_000_000


def download(
    model: ResolvedModel | str,
    revision: str | None = None,
    *,
    models_dir: Path | None = None,
    cache_dir: Path | None = None,
    gguf: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    file_progress: Progress | None = None,
    cancel: CancelFlag | None = None,
) -> Path:
    """Bring a repository's runtime files here; what is here and whole is not fetched again.

    The login is ``huggingface_hub``'s own (``hf auth login`` or ``HF_TOKEN``).

    Parameters
    ----------
    model, revision
        What the resolver found, or ``org/name``, and a branch, tag or commit.
    models_dir
        Makes a managed folder there; ``None`` fills the hub's cache, used in place.
    cache_dir
        The hub's cache; ``None`` takes the one ``huggingface_hub`` uses.
    gguf
        Name of a GGUF file to fetch instead of safetensors. A repository with a single GGUF
        file and no safetensors needs no name.
    force
        Fetch every file again, whatever is here.
    progress
        Called on this thread with the stage ``Download``, bytes done and bytes in all.
    file_progress
        Called likewise for each file whose count has changed, with the file's name as stage.
    cancel
        Ends the download within a second; a later one goes on where it stopped.

    Returns
    -------
    Path
        The model's folder, without gaps.

    Raises
    ------
    GatedModelError
        When the licence must be accepted first, or nobody is logged in.
    ManagedModelDownloadError
        When the hub cannot be reached, has no such repository or revision, or files could not
        be fetched; each of these is listed.
    UnsafeModelError
        For pickle weights, remote code and names that leave the folder, before weights come.
    OutOfMemory
        When the disk has no room; tier ``"disk"``.
    Cancelled
        When `cancel` was set.
    """
    if isinstance(model, ResolvedModel):
        repo_id, revision = model.repo_id or "", revision or model.revision
    else:
        repo_id = model
    endpoint = hub_address()
    errors = DownloadErrors(repo_id, revision, endpoint)
    if not is_repo_id(repo_id) or (revision and not is_safe_revision(revision)):
        raise errors.bad_name()
    errors.refuse_offline()
    try:
        with Crew(WORKERS, cancel, f"Downloading {repo_id}") as crew:
            listing = ask_for_files(crew, errors)
            check_weight_formats(StagedFiles(listing, {}))
            home: Home
            if models_dir is None:
                cache = cache_dir or default_hub_cache()
                home = HubCacheHome(cache, repo_id, listing.commit, revision)
            else:
                home = ManagedHome(models_dir, folder_name(repo_id, revision))
            errors.folder = home.folder
            lock = acquire(home.lock, cancel, f"Waiting for another download of {repo_id}")
            crew.farewell = lock.release
            tally = Tally(progress, file_progress)
            job = _Job(listing, home, crew, errors, tally=tally, cancel=cancel, force=force)
            return job.run(gguf)
    except OSError as error:
        trouble = errors.of_disk(error)
    raise trouble


class _Job:
    """One download, under the lock of its repository."""

    def __init__(
        self,
        listing: HubListing,
        home: Home,
        crew: Crew,
        errors: DownloadErrors,
        *,
        tally: Tally,
        cancel: CancelFlag | None,
        force: bool,
    ) -> None:
        self._listing = listing
        self._home = home
        self._crew = crew
        self._errors = errors
        self._tally = tally
        self._cancel = cancel
        self._force = force
        self._memory = settings.cache_dir() / "downloads" / "digests.json"
        self._places: dict[str, Path] = {}
        self._fetched: set[Path] = set()
        self._told: dict[str, int] = {}

    def run(self, gguf: str | None) -> Path:
        files = self._listing.files
        small = small_files(files)
        ggufs = self._ggufs(gguf)
        likely = ggufs or likely_weights(files)
        if not likely:
            raise self._errors.no_weights()
        self._fetch(small, (*small, *likely))
        staged = StagedFiles(self._listing, self._places)
        if staged.has(CONFIG_NAME):
            check_code(staged, staged.read_json(CONFIG_NAME))
        weights = ggufs or self._weights(staged, likely)
        wanted = (*small, *weights)
        self._fetch(weights, wanted)
        raise_if_cancelled(self._cancel, f"Downloading {self._listing.repo_id}")
        self._home.publish(wanted)
        for file in wanted:
            shown = self._home.candidates(file)[0]
            if shown in self._fetched or self._places[file.name] != shown:
                self._remember(file, shown)
        gaps = find_gaps(self._home.folder)
        if gaps:
            raise self._errors.incomplete(gaps)
        return self._home.folder

    def _ggufs(self, gguf: str | None) -> tuple[HubFile, ...]:
        files = self._listing.files
        names = gguf_names(files)
        if gguf is not None:
            if gguf not in names:
                raise self._errors.no_gguf(gguf, names)
            return (files[gguf],)
        if likely_weights(files) or not names:
            return ()
        if len(names) > 1:
            raise self._errors.many_ggufs(names)
        return (files[names[0]],)

    def _weights(self, staged: StagedFiles, likely: Sequence[HubFile]) -> tuple[HubFile, ...]:
        if not staged.has(INDEX_NAME):
            return tuple(likely)
        source = f"{self._listing.repo_id}/{INDEX_NAME}"
        shards = shards_of_index(source, staged.read_json(INDEX_NAME, MAX_INDEX_BYTES))
        lacking = [name for name in shards if name not in self._listing.files]
        if lacking:
            raise self._errors.incomplete([f"{name} is not in the repository." for name in lacking])
        return tuple(self._listing.files[name] for name in shards)

    def _fetch(self, files: Sequence[HubFile], everything: Sequence[HubFile]) -> None:
        """Get the files that are not here and whole; `everything` is what progress counts."""
        transfers: dict[Path, Transfer] = {}
        headers = request_headers()
        for file in files:
            target = self._home.target(file)
            place = target if target in self._fetched else self._place_of(file)
            if place is None:
                transfers[target] = Transfer(file, self._listing.url(file), target, headers)
            self._places[file.name] = place or target
        self._require_room(transfers.values(), [f for f in everything if f not in files])

        def task(transfer: Transfer) -> Task:
            def work(stop: threading.Event) -> None:
                transfer(stop)
                if transfer.fault is not None and transfer.fault.is_fatal():
                    stop.set()

            return work

        def tick() -> None:
            self._report(transfers, everything)

        tick()
        try:
            self._crew.run([task(transfer) for transfer in transfers.values()], tick)
        finally:
            for transfer in transfers.values():
                if transfer.finished:
                    self._fetched.add(transfer.target)
                    self._remember(transfer.file, transfer.target)
        failed = [transfer for transfer in transfers.values() if not transfer.finished]
        if failed:
            raise self._errors.of_transfers(failed)

    def _place_of(self, file: HubFile) -> Path | None:
        """Where the file is whole; one in the cache that is not is removed."""
        if self._force:
            partial_path(self._home.target(file)).unlink(missing_ok=True)
            return None
        for path in self._home.candidates(file):
            if path.is_file() and self._is_whole(file, path):
                return path
        self._home.target(file).unlink(missing_ok=True)
        return None

    def _is_whole(self, file: HubFile, path: Path) -> bool:
        if path.stat().st_size != file.size_bytes:
            return False
        if len(file.digest) == 64:
            digest = content_digest(path, self._memory, self._tally.check, self._cancel)
            return digest == file.digest
        blob = start_digest(file)
        blob.update(path.read_bytes())
        return blob.hexdigest() == file.digest

    def _remember(self, file: HubFile, path: Path) -> None:
        if len(file.digest) == 64 and path.is_file():
            remember_digest(path, self._memory, file.digest)

    def _require_room(self, transfers: Iterable[Transfer], later: Sequence[HubFile]) -> None:
        files = [transfer.file for transfer in transfers]
        files += [file for file in later if not self._is_about_here(file)]
        needed = sum(file.size_bytes - self._begun_bytes(file) for file in files)
        if not needed:
            return
        place = self._home.lock.parent
        free = shutil.disk_usage(place).free
        if free < needed + _MARGIN_BYTES:
            raise OutOfMemory(
                f"{self._listing.repo_id} needs {format_bytes(needed)} more and {place} has "
                f"{format_bytes(free)} free.",
                tier="disk",
                needed_bytes=needed + _MARGIN_BYTES,
                free_bytes=free,
                hint="Free some disk space, or choose a models_dir on a larger disk.",
            )

    def _begun_bytes(self, file: HubFile) -> int:
        """What an earlier download has left of the file."""
        path = partial_path(self._home.target(file))
        return min(path.stat().st_size, file.size_bytes) if path.is_file() else 0

    def _is_about_here(self, file: HubFile) -> bool:
        """Whether a file of the right size is there; its content is looked at in its turn."""
        if file.name in self._places:
            return True
        return not self._force and any(
            path.is_file() and path.stat().st_size == file.size_bytes
            for path in self._home.candidates(file)
        )

    def _report(self, transfers: dict[Path, Transfer], everything: Sequence[HubFile]) -> None:
        done_bytes = {}
        for file in everything:
            transfer = transfers.get(self._home.target(file))
            here = file.size_bytes if file.name in self._places else 0
            done_bytes[file] = here if transfer is None else transfer.done_bytes
        self._tally.tell(done_bytes)
