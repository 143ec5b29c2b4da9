"""Package definition; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="wesp_lap",
    version="0.1.0",
    description="Speaker verification with layer-pooled self-supervised Transformers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["wesp_lap", "wesp_lap.*"]),
    package_data={"wesp_lap": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        # An uncapped torch pulls gigabytes of CUDA packages; see docs/install.md.
        "torch>=2.6,<2.14",
        # Older torchaudio wheels pin one exact torch and drag it in.
        "torchaudio>=2.11",
        "transformers>=5.0,<6",
        "safetensors",
        "numpy",
        "scipy>=1.12",
        "scikit-learn",
        "threadpoolctl",
        "soundfile>=0.12",
        "fsspec",
        "kaldiio",
        "webdataset",
        "pyyaml",
        "fire>=0.6",
        "tqdm",
        "matplotlib",
    ],
    extras_require={
        # Makes the synthetic corpus of egs/mini.
        "mini": ["espeakng-loader==0.2.4"],
        # A static ffmpeg, for m4a and the like, where the system has none.
        "ffmpeg": ["imageio-ffmpeg"],
        # Shards behind http:// and https:// addresses; s3:// takes s3fs, gs:// gcsfs.
        "urls": ["fsspec[http]"],
        # Noises from LMDB databases, as WeSpeaker makes them.
        "lmdb": ["lmdb"],
        # Speech detection for extraction, --vad silero.
        "vad": ["silero-vad"],
        # Training curves in TensorBoard, training.tensorboard.
        "tensorboard": ["tensorboard"],
        # Low-rank adapters in the frontend, frontend.lora.
        "lora": ["peft>=0.17"],
        "dev": [
            "espeakng-loader==0.2.4",
            "imageio-ffmpeg",
            "fsspec[http]",
            "lmdb",
            "peft>=0.17",
            "tensorboard",
            "pytest>=8",
            "ruff==0.17.5",
            "mypy==2.4.1",
            "types-PyYAML",
        ],
    },
)
