"""Run every command of the recipes' READMEs on miniatures, as a reader would type it.

    python tests/nightly/readme_commands.py [--only voxceleb] [--work DIR]

Folders of the pages (/corpora, data/, exp/, DIR) become folders below --work, and options that make
a recipe small come last. Takes about half an hour on two cores; stops at the first failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import tiny_pretraining, tiny_system  # noqa: E402

from wesp_lap.coerce import Section  # noqa: E402
from wesp_lap.pretraining.encoders import build_encoder, save_encoder  # noqa: E402

_CORPUS = (
    "--num_train_speakers 10 --num_train_sessions 2 --num_train_utterances 3 "
    "--num_eval_speakers 10 --num_eval_sessions 2 --num_eval_utterances 2 "
    "--num_noises 3 --num_tunes 2 --num_talkers 3 --num_rooms 2"
)
_READ_SPEECH = {
    "librispeech": "--subsets train-clean-100,dev-clean,test-clean --per_label 12",
    "vctk": "--split drawn --held_out 2 --first_prompt 1 --per_label 8",
}
_LAYOUTS = {
    "voxceleb1": "--data eval --test_speakers 5 --num_trials 200",
    "voxceleb2": "--data train --test_speakers 2",
    "cnceleb1": "--data train --test_data eval --speakers 6",
    "cnceleb2": "--data train --skip 6",
    "musan": "--data musan",
    "rirs": "--data rirs",
    "librispeech": "--data train --test_speakers 2",
    "vctk": "--data train --test_speakers 2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="part of the name of a recipe")
    parser.add_argument("--work", help="folder to work in; a temporary one by default")
    options = parser.parse_args()
    work = Path(options.work or tempfile.mkdtemp(prefix="readme_commands_"))
    prepare(work)
    # The last one takes what the others have prepared.
    for page in sorted((ROOT / "egs").glob("*/README.md"), key=lambda p: "transfer" in str(p)):
        if options.only and options.only not in page.parent.name:
            continue
        for command in commands(page.read_text(encoding="utf-8")):
            print(f"{page.parent.name}: {command}", flush=True)
            run(in_miniature(command, work), work)


def commands(page: str) -> list[str]:
    """Return the indented commands of a page, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", page).splitlines()
    return [line.strip() for line in lines if re.match(r" {4}(bash|python) ", line)]


def in_miniature(command: str, work: Path) -> list[str]:
    """Return the words of a command on the miniatures, with what makes it small."""
    words = [
        re.sub(r"/corpora(?=/|$)", str(work / "corpora"), word)
        for word in shlex.split(command.replace("[", "").replace("]", ""))
    ]
    words = [re.sub(r"(^|[=:])(?=(data|exp)/)", rf"\1{work}/", word) for word in words]
    words = [str(work / "public") if word.startswith("facebook/") else word for word in words]
    if "lay_out_corpus.py" in command:
        return _laid_out_again(words, work)
    return words + small(words, work)


def _laid_out_again(words: list[str], work: Path) -> list[str]:
    """Lay the layout out beside the one that the other commands use, with its options."""
    layout = words[2]
    return [*words[:3], *_options_of(layout, work), "--out", str(work / "again" / layout)]


def _options_of(layout: str, work: Path) -> list[str]:
    words = _LAYOUTS[layout].split()
    return [
        str(work / "embedded" / w) if w in ("train", "eval", "musan", "rirs") else w for w in words
    ]


def small(words: list[str], work: Path) -> list[str]:
    """Return the options that make a recipe small."""
    name, tiny = words[1].split("/")[1], str(work / "tiny.yaml")
    if name in _READ_SPEECH:
        # Two test speakers are too few for confidence intervals.
        return [*_sizes(work), "--data_options", _READ_SPEECH[name], "--stop_stage", "5"]
    if name == "mini":
        more = ["--pretrain_config", str(work / "tiny_pretrain.yaml")]
        if "--train" not in words:
            more += ["--exp_dir", str(work / "exp/mini"), "--corpus", str(work / "embedded")]
            more += ["--corpus_options", _CORPUS]
        return [*more, *_sizes(work)]
    if words[1].endswith("run_pretrain.sh"):
        run = "--top_n 3 --num_pairs 60 --utterances_per_shard 8"
        more = ["--random_config", tiny, "--public_config", tiny, "--run_options", run]
        return [*_pretraining(work), "--config", tiny, *more]
    if name == "transfer":
        return [*_pretraining(work), "--config", tiny, "--utterances_per_shard", "8"]
    return _sizes(work)


def _pretraining(work: Path) -> list[str]:
    words = ["--pretrain_config", str(work / "tiny_pretrain.yaml"), "--num_clusters", "8 8"]
    return [*words, "--label_layer", "1", "--fraction", "1.0", "--nproc", "1"]


def _sizes(work: Path) -> list[str]:
    words = ["--config", str(work / "tiny.yaml"), "--nproc", "1", "--top_n", "3"]
    return [*words, "--num_pairs", "60", "--utterances_per_shard", "8"]


def prepare(work: Path) -> None:
    """Make the embedded corpus, its layouts and tiny settings."""
    (work / "corpora").mkdir(parents=True, exist_ok=True)
    script = ROOT / "egs/mini/local/make_corpus.py"
    run([sys.executable, str(script), "--out", str(work / "embedded"), *_CORPUS.split()], work)
    for layout in _LAYOUTS:
        words = [sys.executable, "tools/lay_out_corpus.py", layout, *_options_of(layout, work)]
        run([*words, "--out", str(work / "corpora" / layout)], work)
    (work / "data").mkdir(exist_ok=True)
    for part in ("train", "eval"):
        if not (work / "data" / part).exists():
            (work / "data" / part).symlink_to(work / "embedded" / part)
    (work / "tiny.yaml").write_text(yaml.safe_dump(tiny_system(), sort_keys=False))
    (work / "tiny_pretrain.yaml").write_text(yaml.safe_dump(tiny_pretraining(), sort_keys=False))
    options = dict(tiny_pretraining()["encoder"])
    save_encoder(build_encoder(Section(options.pop("name"), options)), work / "public")


def run(words: list[str], work: Path) -> None:
    """Run a command in the root of the clone; end with its output when it fails."""
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    words = [sys.executable if word == "python" else word for word in words]
    log = work / "last_command.log"
    with open(log, "w") as stream:
        code = subprocess.run(
            words, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if code != 0:
        text = log.read_text()[-5000:]
        sys.exit(f"{text}\nfailed with exit code {code}: {shlex.join(words)}")


if __name__ == "__main__":
    main()
