"""Crops of utterances, read from shards or files on disks or behind URLs.

Of PCM audio only the samples of the crop are read. Everything else is read whole and decoded from
the crop's begin on, which for FLAC, Vorbis and Opus is as quick as decoding from the begin of the
utterance even for the earliest crops.
"""

from __future__ import annotations

import resource
import zlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from wesp_lap.audio.ffmpeg import needs_ffmpeg
from wesp_lap.audio.io import decode
from wesp_lap.data.cache import ShardCache, end_of_audio
from wesp_lap.data.index import Utterances
from wesp_lap.data.remote import AccessSettings, Remote
from wesp_lap.data.shard_list import is_url
from wesp_lap.data.sources import LocalFile, LocalShard, Source, UrlFile, UrlShard
from wesp_lap.errors import DataError

__all__ = ["AccessSettings", "CropReader"]

# Open shards per process, two files each; of those behind URLs the sums are in memory.
_MOST_OPEN = 2048
_MOST_URLS = 128
_DEFAULTS = AccessSettings()
# What makes 16-bit samples floats in [-1, 1).
_SCALE = np.float32(1 / 32768)


class CropReader:
    """Reads parts of utterances; may be sent to other processes, where it opens files of its own.

    Args:
        utterances: What there is to read.
        settings: How to get at files that are not on a disk of this machine.
    """

    def __init__(self, utterances: Utterances, settings: AccessSettings = _DEFAULTS) -> None:
        self._utterances = utterances
        self._remote = Remote(settings)
        self._is_raw = utterances.is_raw
        cached = settings.cache_dir is not None and not self._is_raw
        self._cache = ShardCache(utterances, settings) if cached else None
        self._open: OrderedDict[int, Source] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, row: int, start: int, samples: int, out: np.ndarray) -> int:
        """Write samples [start, start + samples) of an utterance to ``out``.

        Args:
            row: Row of the utterance.
            start: First sample.
            samples: How many; the utterance must have them.
            out: float32 (at least ``samples``,); gets values in [-1, 1].

        Returns:
            ``samples``.

        Raises:
            DataError: the shard cannot be read, is cut short or damaged; it is named with the
                utterance and the mend.
        """
        utterances = self._utterances
        if not 0 <= start <= start + samples <= utterances.samples.item(row):
            raise ValueError(f"samples {start} to {start + samples} of row {row} do not exist")
        try:
            pcm = utterances.pcm.item(row)
            if pcm < 0:
                out[:samples] = self._decoded(row, start, start + samples)
                return samples
            begin = utterances.offset.item(row) + pcm + 2 * start
            content, skip = self._source(row).read(begin, begin + 2 * samples)
        except DataError as error:
            raise DataError(f"utterance '{utterances.key(row)}': {error}") from error
        except OSError as error:
            name = utterances.tar_name(utterances.tar.item(row))
            raise DataError(
                f"utterance '{utterances.key(row)}': {name}: {error.strerror or error}; is the "
                "disk or the network down?"
            ) from error
        # In two steps: numpy converts and multiplies at once in small pieces, which is slower.
        wave = out[:samples]
        np.copyto(wave, np.frombuffer(content, "<i2", samples, skip))
        np.multiply(wave, _SCALE, out=wave)
        return samples

    def ahead(self, tars: Iterable[int]) -> None:
        """Start to copy shards that are needed next into the cache, the first of them first.

        Does nothing without a cache. What goes wrong shows when the shard is read.

        Args:
            tars: Rows of ``utterances.tars``; replaces what was given before.
        """
        if self._cache is not None:
            self._cache.ahead(tar for tar in tars if tar not in self._open)

    def _decoded(self, row: int, start: int, stop: int) -> np.ndarray:
        utterances = self._utterances
        begin, size = utterances.offset.item(row), utterances.size.item(row)
        content, skip = self._source(row).read(begin, begin + size)
        content = content[skip : skip + size]
        name = utterances.tar_name(utterances.tar.item(row))
        if self._is_raw:
            # A file of its own has no block sums.
            if zlib.crc32(content) != utterances.crc32.item(row):
                raise DataError(f"{name}: changed or damaged: wrong checksum; replace it")
            if needs_ffmpeg(name) and not is_url(name):
                return decode(name, start, stop)[0]
        return decode(content, start, stop, name)[0]

    def _source(self, row: int) -> Source:
        """Return the open file that holds an utterance; of those used last, many stay open."""
        tar = self._utterances.tar.item(row)
        source = self._open.get(tar)
        if source is not None:
            self._open.move_to_end(tar)
            return source
        name = self._utterances.tar_name(tar)
        most = _MOST_URLS if self._cache is None and is_url(name) else _most_open()
        while len(self._open) >= most:
            self._open.popitem(last=False)[1].close()
        source = self._open[tar] = self._opened(tar, name, row)
        return source

    def _opened(self, tar: int, name: str, row: int) -> Source:
        if self._is_raw:
            if is_url(name):
                return UrlFile(name, self._remote)
            return LocalFile(name, self._utterances.size.item(row))
        if self._cache is not None:
            self._close_deleted()
            return self._cache.open(tar)
        if is_url(name):
            return UrlShard(name, end_of_audio(self._utterances, tar), self._remote)
        return LocalShard(name)

    def _close_deleted(self) -> None:
        """Let go of shards that the cache has evicted, so that the disk gets their space back."""
        for tar, source in list(self._open.items()):
            if isinstance(source, LocalShard) and source.is_deleted():
                self._open.pop(tar).close()


def _most_open() -> int:
    """Return how many shards may be open: half of what the process may open is left to others."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if limit == resource.RLIM_INFINITY else max(1, min(limit // 4, _MOST_OPEN))
