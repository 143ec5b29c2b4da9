"""Files of corpora as their makers publish them: where they lie, and their checksums.

A checksum stands here when its publisher or two independent recipes give it; otherwise None, and
the download says that it could not be compared. Sizes are in bytes, as far as they are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_VOXCELEB = ("https://thor.robots.ox.ac.uk/~vgg/data/voxceleb/vox1a/",)
_VOXCELEB_LISTS = (
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/",
    "https://mm.kaist.ac.kr/datasets/voxceleb/meta/",
)
_ASK_VOXCELEB = (
    "VoxCeleb's audio is given out on request at https://mm.kaist.ac.kr/datasets/voxceleb: give "
    "the address that you were sent as --mirror, or in WESP_LAP_MIRROR when it holds a key; user "
    "and password go into WESP_LAP_USER and WESP_LAP_PASSWORD"
)


@dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
        name: its name.
        bases: addresses of folders that hold it, the first one first.
        md5: checksum, or None.
        size: bytes, or None.
    """

    name: str
    bases: tuple[str, ...]
    md5: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Release:
    """All files of a corpus.

    Attributes:
        files: what to fetch.
        about_gb: their size together, in units of 10^9 bytes.
        joined: MD5 of parts, one after the other, by the name that the parts begin with.
        refused: what to do where the server refuses.
    """

    files: tuple[File, ...]
    about_gb: float
    joined: Mapping[str, str] | None = None
    refused: str = ""


def _openslr(number: int) -> tuple[str, ...]:
    hosts = ("www.openslr.org", "openslr.elda.org", "openslr.trmal.net")
    return tuple(f"https://{host}/resources/{number}/" for host in hosts)


CATALOGUE: Mapping[str, Release] = {
    "voxceleb1": Release(
        (
            File("vox1_dev_wav_partaa", _VOXCELEB, "e395d020928bc15670b570a21695ed96"),
            File("vox1_dev_wav_partab", _VOXCELEB, "bbfaaccefab65d82b21903e81a8a8020"),
            File("vox1_dev_wav_partac", _VOXCELEB, "017d579a2a96a077f40042ec33e51512"),
            File("vox1_dev_wav_partad", _VOXCELEB, "7bb1e9f70fddc7a678fa998ea8b3ba19"),
            File("vox1_test_wav.zip", _VOXCELEB, "185fdc63c3c739954633d50379a3d102"),
            File("veri_test2.txt", _VOXCELEB_LISTS, "b73110731c9223c1461fe49cb48dddfc"),
            File("list_test_all2.txt", _VOXCELEB_LISTS, "a53e059deb562ffcfc092bf5d90d9f3a"),
            File("list_test_hard2.txt", _VOXCELEB_LISTS, "857790e09d579a68eb2e339a090343c8"),
            File("veri_test.txt", _VOXCELEB_LISTS, "29fc7cc1c5d59f0816dc15d6e8be60f7"),
        ),
        40,
        {"vox1_dev_wav_part": "ae63e55b951748cc486645f532ba230b"},
        _ASK_VOXCELEB,
    ),
    "voxceleb2": Release(
        (
            File("vox2_dev_aac_partaa", _VOXCELEB, "da070494c573e5c0564b1d11c3b20577"),
            File("vox2_dev_aac_partab", _VOXCELEB, "17fe6dab2b32b48abaf1676429cdd06f"),
            File("vox2_dev_aac_partac", _VOXCELEB, "1de58e086c5edf63625af1cb6d831528"),
            File("vox2_dev_aac_partad", _VOXCELEB, "5a043eb03e15c5a918ee6a52aad477f9"),
            File("vox2_dev_aac_partae", _VOXCELEB, "cea401b624983e2d0b2a87fb5d59aa60"),
            File("vox2_dev_aac_partaf", _VOXCELEB, "fc886d9ba90ab88e7880ee98effd6ae9"),
            File("vox2_dev_aac_partag", _VOXCELEB, "d160ecc3f6ee3eed54d55349531cb42e"),
            File("vox2_dev_aac_partah", _VOXCELEB, "6b84a81b9af72a9d9eecbb3b1f602e65"),
            File("vox2_test_aac.zip", _VOXCELEB, "0d2b3ea430a821c33263b5ea37ede312"),
            File("vox2_meta.csv", _VOXCELEB_LISTS),
        ),
        85,
        {"vox2_dev_aac_part": "bbc063c46078a602ca71605645c2a402"},
        _ASK_VOXCELEB,
    ),
    "musan": Release(
        (File("musan.tar.gz", _openslr(17), "0c472d4fc0c5141eca47ad1ffeb2a7df", 11_086_114_085),),
        11.1,
    ),
    "rirs": Release(
        (File("rirs_noises.zip", _openslr(28), "e6f48e257286e05de56413b4779d8ffb", 1_311_166_223),),
        1.3,
    ),
    "cnceleb1": Release(
        (File("cn-celeb_v2.tar.gz", _openslr(82), "7ab1b214028a7439e26608b2d5a0336c"),), 22
    ),
    "cnceleb2": Release(
        tuple(File(f"cn-celeb2_v2.tar.gz{part}", _openslr(82)) for part in ("aa", "ab", "ac")),
        78,
        {"cn-celeb2_v2.tar.gz": "55c47cf0b6d0bf793e88bf79d5dfc660"},
    ),
    "librispeech": Release(
        (
            File(
                "train-clean-100.tar.gz",
                _openslr(12),
                "2a93770f6d5c6c964bc36631d331a522",
                6_387_309_499,
            ),
            File("train-clean-360.tar.gz", _openslr(12), "c0e676e450a7ff2f54aeade5171606fa"),
            File("train-other-500.tar.gz", _openslr(12), "d1a0fd59409feb2c614ce4d30c387708"),
            File("dev-clean.tar.gz", _openslr(12), "42e2234ba48799c1f50f24a7926300a1", 337_926_286),
            File("dev-other.tar.gz", _openslr(12), "c8d0bcc9cca99d4f8b62fcc847357931"),
            File(
                "test-clean.tar.gz", _openslr(12), "32fa31d27d2e1cad72775fee3f4849a9", 346_663_984
            ),
            File("test-other.tar.gz", _openslr(12), "fb5a50374b501bb3bac4815ee91d3135"),
        ),
        61,
    ),
    "vctk": Release(
        (
            File(
                "VCTK-Corpus-0.92.zip",
                ("https://datashare.ed.ac.uk/bitstream/handle/10283/3443/",),
                "8a6ba2946b36fcbef0212cad601f4bfa",
                11_747_302_977,
            ),
        ),
        11.7,
    ),
}
