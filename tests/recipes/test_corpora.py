"""egs/voxceleb and egs/cnceleb on miniature corpora in the published layouts."""

import shutil

import pytest
from helpers import run_recipe

from wesp_lap.kaldi.tables import read_table

pytestmark = pytest.mark.slow


def copy_audio(tiny_corpus, targets):
    """Copy utterances of the tiny corpus: {utterance: target}."""
    wav = read_table(tiny_corpus.data / "wav.scp")
    for key, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wav[key], target)


def common(tiny_conf, exp_dir):
    return [
        f"--exp_dir={exp_dir}",
        f"--conf={tiny_conf}",
        "--nproc=2",
        "--top_n=3",
        "--num_pairs=60",
        "--utterances_per_shard=8",
    ]


def methods(exp_dir):
    rows = [line.split("\t") for line in (exp_dir / "results.tsv").read_text().splitlines()[1:]]
    return [tuple(row[:2]) for row in rows]


def test_voxceleb(tiny_corpus, tiny_conf, tmp_path):
    """VoxCeleb2-dev and VoxCeleb1 as SPEAKER/VIDEO/FILE, trials in VoxCeleb's own format."""
    keys = [(key, int(key[3:5]), key[-1]) for key in tiny_corpus.utterances]
    layout = {
        key: tmp_path
        / ("vox2/aac" if speaker < 5 else "vox1/wav")
        / f"id1{speaker:04d}/vid{index}/0000{index}.{'flac' if speaker < 5 else 'wav'}"
        for key, speaker, index in keys
    }
    copy_audio(tiny_corpus, layout)
    for path in (tmp_path / "vox1").rglob("*.wav"):  # really WAV, not FLAC by another name
        import soundfile

        wave, rate = soundfile.read(path)
        soundfile.write(path, wave, rate, format="WAV", subtype="PCM_16")
    tested = [f"id1{s:04d}/vid{i}/0000{i}.wav" for _, s, i in keys if s >= 5]
    trials = tmp_path / "veri_test2.txt"
    trials.write_text(
        "".join(
            f"{int(one[:7] == other[:7])} {one} {other}\n"
            for n, one in enumerate(tested)
            for other in tested[n + 1 :]
        )
    )
    words = [f"--vox1={tmp_path}/vox1", f"--vox2={tmp_path}/vox2", f"--trials={trials}"]
    done = run_recipe("voxceleb", *words, *common(tiny_conf, tmp_path / "exp"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert methods(tmp_path / "exp") == [
        ("veri_test2.txt", method) for method in ("cosine", "asnorm", "qmf")
    ]
    key, *_ = (tmp_path / "exp/data/vox2_dev/utt2spk").read_text().split()
    assert key == "id10000/vid0/00000.wav"


def test_cnceleb(tiny_corpus, tiny_conf, tmp_path):
    """Training speakers in data/, concatenated enrolment recordings and tests in eval/."""
    root = tmp_path / "CN-Celeb_flac"
    layout = {}
    for key in tiny_corpus.utterances:
        speaker, index = int(key[3:5]), int(key[-1])
        name = f"id{speaker:05d}"
        if speaker < 5:
            layout[key] = root / f"data/{name}/singing-01-{index:03d}.flac"
        elif index == 0:
            layout[key] = root / f"eval/enroll/{name}-enroll.flac"
        else:
            layout[key] = root / f"eval/test/{name}-singing-01-{index:03d}.flac"
    copy_audio(tiny_corpus, layout)
    lists = root / "eval/lists"
    lists.mkdir()
    models = [f"id{speaker:05d}-enroll" for speaker in (5, 6, 7)]
    (lists / "enroll.lst").write_text("".join(f"{m} enroll/{m}.wav\n" for m in models))
    tests = sorted(f"test/{path.stem}.wav" for path in (root / "eval/test").iterdir())
    (lists / "trials.lst").write_text(
        "".join(f"{m} {t} {int(m[:7] == t[5:12])}\n" for m in models for t in tests)
    )
    done = run_recipe("cnceleb", f"--cnceleb1={root}", *common(tiny_conf, tmp_path / "exp"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert methods(tmp_path / "exp") == [
        ("trials", method) for method in ("cosine", "asnorm", "qmf")
    ]


@pytest.mark.parametrize(
    "recipe, words, message",
    [
        ("voxceleb", [], "give --vox1"),
        ("cnceleb", [], "give --cnceleb1"),
    ],
)
def test_without_a_corpus_the_recipe_says_what_it_needs(recipe, words, message):
    done = run_recipe(recipe, *words)
    assert done.returncode == 2
    assert message in done.stdout


def test_an_empty_corpus_is_named(tmp_path):
    (tmp_path / "vox").mkdir()
    words = [f"--{name}={tmp_path / 'vox'}" for name in ("vox1", "vox2", "trials")]
    done = run_recipe("voxceleb", *words, f"--exp_dir={tmp_path / 'exp'}")
    assert done.returncode == 1
    assert "vox: no audio files idXXXXX/VIDEO/FILE.wav" in done.stdout
    assert "stage 1 (data directories) failed" in done.stdout
