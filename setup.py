"""Packaging: metadata, dependency ranges and the three console commands.

The lower bound of each range is the oldest version that passed the quick tests (except the extras
`video` and `sweep` and the tools of the tests). The upper bound excludes the first version that
does not exist yet or is known to fail. CPython 3.10 to 3.13: TensorFlow has no wheel for 3.14, and
labmaze, which dm_control needs, none for 3.13.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
TENSORFLOW = ">=2.20,<2.22"

REQUIRED = [
    f"tensorflow{TENSORFLOW}",
    "tensorflow-probability>=0.25,<0.26",
    f"tf-keras{TENSORFLOW}",  # TensorFlow Probability 0.25 does not import without it
    "numpy>=2.0,<3",
    "scipy>=1.14,<2",
    "gymnasium>=1.1.1,<2",  # 1.1 brought AutoresetMode.DISABLED
    "cloudpickle>=3,<4",
    "ale-py>=0.10.2,<0.13",  # the game ROMs are inside the wheel
    "filelock>=3.32.7,<5",  # one process per logdir
    "ruamel.yaml>=0.18.6,<0.20",
    "tqdm>=4.66,<5",
    "pillow>=11,<14",
    "tensorboard>=2.20,<2.22",
    "pandas>=2.2.3,<4",
    "matplotlib>=3.9.2,<4",
]

SUITES = {
    "dmc": [
        'dm_control>=1.0.30,<2; python_version < "3.13"',
        'mujoco>=3.2,<4; python_version < "3.13"',  # mujoco 4.0 breaks dm_control 1.0.50
    ],
    # Crafter generates its worlds from opensimplex noise, which numba makes 15 times as fast.
    "crafter": ["crafter>=1.8.3,<2", "opensimplex>=0.4.3,<0.5", "numba>=0.61,<1"],
    "minigrid": ["minigrid>=3,<4"],
}

VIDEO = ["av>=14,<19"]  # MP4 beside GIF; the wheels contain the encoder

SWEEP = ["ray>=2.49.2,<3"]  # 80 MB to download, 240 MB installed

TEST = [
    "pytest>=8,<10",
    "pytest-xdist>=3.5,<4",
    "hypothesis>=6.100,<7",
    "ruff>=0.17,<0.18",  # narrow, because a new ruff formats differently
    "psutil>=6,<8",
    "build>=1.2,<2",
    "setuptools>=77",
    "wheel>=0.44,<1",
]


def version() -> str:
    """Return the version written in the package, without importing it."""
    text = (ROOT / "dreamerv2" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[1]


def long_description() -> str:
    """Return the README, or nothing if only the dependencies are installed (Dockerfile)."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="dreamerv2",
    version=version(),
    description="Mastering Atari with Discrete World Models, in TensorFlow 2",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    # Only files under dreamerv2/ are installed. find_packages follows the symlink to common/, and
    # the builders copy the targets of links, so a wheel holds real files with these names.
    packages=find_packages(include=["dreamerv2", "dreamerv2.*"]),
    include_package_data=False,
    package_data={"dreamerv2": ["configs.yaml", "scores/**/*"]},
    install_requires=REQUIRED,
    extras_require={
        "gpu": [
            f'tensorflow[and-cuda]{TENSORFLOW}; sys_platform == "linux"',
            # cuDNN 9.11 has no code for the V100 and older cards, which TensorFlow still supports.
            'nvidia-cudnn-cu12>=9.3,<9.11; sys_platform == "linux"',
        ],
        **SUITES,
        "video": VIDEO,
        "sweep": SWEEP,
        "test": TEST,
        # Everything except the 3 GB of CUDA libraries, which only a machine with a GPU can use.
        "all": [*TEST, *VIDEO, *SWEEP, *(need for suite in SUITES.values() for need in suite)],
    },
    entry_points={
        "console_scripts": [
            "dreamerv2 = dreamerv2.train:main",
            "dreamerv2-plot = dreamerv2.plot:main",
            "dreamerv2-sweep = dreamerv2.sweep:main",
        ]
    },
)
