"""The files that will go with the next question, from their first bytes on."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.images import open_image
from ollm_widgets.session.attachments import (
    MOST_FILES,
    Attachment,
    check_size,
    clean_name,
    kind_of,
    read_text,
)
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.parts import Changed
from ollm_widgets.session.thumbnails import thumbnail_of

MOST_PIXELS = 50_000_000  # of an attached image; decoded each takes three bytes
_MOST_UPLOADS = 4  # at once; of a page that was closed midway the oldest gives way


@dataclass(slots=True)
class _Upload:
    name: str
    pieces: list[bytes] = field(default_factory=list)
    size_bytes: int = 0


class Tray:
    """Takes files in pieces, reads them, and gives them to a question.

    Parameters
    ----------
    lock
        The session's lock; held while the tray changes.
    changed
        Called after each change.
    """

    def __init__(self, lock: threading.RLock, changed: Changed) -> None:
        self.items: tuple[Attachment, ...] = ()
        self.reading: tuple[Attachment, ...] = ()  # images that are still decoded
        self.problem = ""  # why the latest file was not taken
        self._lock = lock
        self._changed = changed
        self._uploads: dict[str, _Upload] = {}
        self._ids = itertools.count(1)
        self._reading = Lane("attach")

    def receive(
        self, upload_id: str, name: str, data: bytes, *, last: bool, images: str = ""
    ) -> str | None:
        """Take a piece of a file; with the last one it is read.

        Parameters
        ----------
        upload_id
            The same for all pieces of a file.
        images
            Why images cannot be taken; empty if they can.

        Returns
        -------
        str or None
            The job that decodes an image.

        Raises
        ------
        ConfigError
            If the file is too large or no text, or there are too many; what came of it is
            forgotten.
        """
        with self._lock:
            self.problem = ""
            upload = self._uploads.setdefault(upload_id, _Upload(clean_name(name)))
            if len(self._uploads) > _MOST_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
            try:
                upload.pieces.append(data)
                upload.size_bytes += len(data)
                check_size(upload.name, upload.size_bytes, kind_of(upload.pieces[0]))
                if not last:
                    return None
                whole = b"".join(upload.pieces)
                del self._uploads[upload_id]
                return self._take(upload.name, whole, images)
            except ConfigError:
                self._uploads.pop(upload_id, None)
                raise
            finally:
                self._changed("chat")

    def remove(self, attachment_id: str) -> None:
        """Put a file away; harmless when it is gone already."""
        with self._lock:
            self.items = _without(self.items, attachment_id)
            self.reading = _without(self.reading, attachment_id)
            self.problem = ""
        self._changed("chat")

    def take(self) -> tuple[Attachment, ...]:
        """Give what is there to a question; the caller holds the lock.

        Raises
        ------
        ConfigError
            While an image is still being read.
        """
        if self.reading:
            raise ConfigError(
                "message", f"{self.reading[0].name} is still being read.", hint="Wait for it."
            )
        items, self.items, self.problem = self.items, (), ""
        return items

    def _take(self, name: str, data: bytes, images: str) -> str | None:
        kind = kind_of(data)
        if len(self.items) + len(self.reading) >= MOST_FILES:
            raise ConfigError(
                name, f"a question takes at most {MOST_FILES} files.", hint="Remove one first."
            )
        attachment_id = f"file-{next(self._ids)}"
        if kind == "text":
            text = read_text(name, data)
            self.items += (Attachment(attachment_id, name, "text", len(data), text),)
            return None
        if images:
            raise ConfigError(name, images, hint="Attach text, or load a model that takes images.")
        read = Attachment(attachment_id, name, "image", len(data), image=data)
        self.reading += (read,)
        return self._reading.submit(lambda _cancel: self._decode(read))

    def _decode(self, read: Attachment) -> None:
        """Runs on the lane."""
        problem, thumbnail = "", ""
        try:
            image = open_image({"image": read.image}, read.name, MOST_PIXELS)
            thumbnail = thumbnail_of(image)
        except ConfigError as error:
            problem = str(error)
        with self._lock:
            # Whoever removed it meanwhile does not want to hear of it.
            if read in self.reading:
                self.reading = _without(self.reading, read.id)
                self.problem = problem
                if thumbnail:
                    whole = Attachment(
                        read.id, read.name, "image", read.size_bytes, "", read.image, thumbnail
                    )
                    self.items += (whole,)
        self._changed("chat")


def _without(items: tuple[Attachment, ...], attachment_id: str) -> tuple[Attachment, ...]:
    return tuple(one for one in items if one.id != attachment_id)
