"""The container image: what its Containerfile says and, by `make test-image`, what a build does.

Built by buildah, as Debian has it, in folders of the test's own. No registry is asked: in place of
the base image a folder of debootstrap's takes its name, with Python where the base image has it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Containerfile").read_text()
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)", re.sub(r"\\\n", "", TEXT), re.M)
BASE = dict(INSTRUCTIONS)["FROM"]
LET_THROUGH = [
    "LICENSE", "README.md", "conf", "constraints.txt", "environment.yml", "pyproject.toml", "src",
    "workflow",
]  # fmt: skip

Call = Callable[..., subprocess.CompletedProcess[str]]


def given(instruction: str) -> list[str]:
    return [words for name, words in INSTRUCTIONS if name == instruction]


def test_the_base_image_is_pinned_and_the_only_address() -> None:
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", BASE)
    assert re.findall(r"[\w.-]+\.(?:io|org|com|dev)\b", TEXT) == ["docker.io"]
    assert "://" not in TEXT.replace("docker-daemon://", "")


def test_it_has_every_extra_but_two() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = next(words for words in given("ARG") if words.startswith("EXTRAS="))
    assert set(named.removeprefix("EXTRAS=").split(",")) == set(extras) - {"dev", "zoo"}


def test_it_is_run_by_a_user_with_a_number_and_without_an_entry() -> None:
    assert given("USER") == ["1000:1000"], "Kubernetes' runAsNonRoot sees numbers alone"
    assert given("ENTRYPOINT") == [], "the plugins' commands would become its arguments"


def test_packages_are_installed_before_the_code_comes() -> None:
    copied = [n for n, (name, _) in enumerate(INSTRUCTIONS) if name == "COPY"]
    assert [INSTRUCTIONS[n][1] for n in copied] == ["pyproject.toml constraints.txt ./", ". ."]
    between = [words for name, words in INSTRUCTIONS[copied[0] : copied[1]] if name == "RUN"]
    assert [words.count("pip install -c constraints.txt") for words in between] == [1, 1]


def test_secrets_are_mounted_and_never_given_as_an_argument() -> None:
    assert [words.partition("=")[0] for words in given("ARG")] == ["DEVICE", "EXTRAS"]
    assert given("ENV") == ["HOME=/home/swath USER=swath PYTHONNOUSERSITE=1"]
    installing = [words for words in given("RUN") if "pip install" in words]
    assert len(installing) == 3
    assert all("--mount=type=secret,id=pip,target=/etc/pip.conf" in words for words in installing)


def test_only_what_is_named_comes_in() -> None:
    lines = [e for e in (ROOT / ".dockerignore").read_text().splitlines() if not e.startswith("#")]
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == LET_THROUGH
    assert {line for line in lines[1:] if line[0] != "!"} == {"**/__pycache__", "**/*.egg-info"}


# ---- built, by `make test-image` ----

image = pytest.mark.image


def run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3600, **more
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where images lie; what pip is told, and the stand-in of the base image, are there already."""
    for program in ("buildah", "debootstrap", "unshare"):
        assert shutil.which(program), f"{program} is not here: apt-get install {program}"
    assert os.getuid() == 0, "debootstrap and buildah's chroots ask for root"
    folder = tmp_path_factory.mktemp("image")
    paths = f'driver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/graph"\n'
    (folder / "storage.conf").write_text(f"[storage]\n{paths}")
    os.environ["CONTAINERS_STORAGE_CONF"] = str(folder / "storage.conf")
    base = folder / "base"
    made = run(
        "debootstrap",
        "--variant=minbase",
        "--include=python3-venv,libpython3.11-dev,ca-certificates",
        "bookworm",
        base,
    )
    assert made.returncode == 0, made.stdout
    # As in the base image, which has Python's headers, too: /usr/local/bin/python, and its packages
    # below /usr/local/lib.
    assert run("chroot", base, "python3", "-m", "venv", "/usr/local").returncode == 0
    container = run("buildah", "from", "scratch").stdout.strip()
    for step in (["add", "-q", container, base, "/"], ["commit", "-q", container, BASE]):
        done = run("buildah", *step)
        assert done.returncode == 0, done.stdout
    shutil.rmtree(base)
    yield folder
    run("buildah", "rm", "--all")
    run("buildah", "rmi", "--all", "--force")
    shutil.rmtree(folder, ignore_errors=True)
    del os.environ["CONTAINERS_STORAGE_CONF"]


def pip_settings() -> tuple[str, list[Path]]:
    """This machine's settings of pip as a pip.conf, and the paths that they name."""
    told = run(sys.executable, "-m", "pip", "config", "list").stdout
    # Those of the environment come first, and hold.
    pairs = re.findall(r"^(?::env:|global)\.([\w-]+)='(.*)'$", told, re.M)
    settings = dict(reversed(pairs))
    words = " ".join(settings.values()).replace("file://", "").split()
    named = [Path(word) for word in words if word.startswith("/")]
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return f"[global]\n{lines}", [
        # The files of an index lie beside it.
        path.parent if path.name == "simple" else path
        for path in named
    ]


@pytest.fixture(scope="module")
def built(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Builds the image as a builder does, with the machine's own settings of pip as the secret."""
    settings, paths = pip_settings()
    (folder / "pip.conf").write_text(settings)
    mounted = [word for path in paths for word in ("--volume", f"{path}:{path}:ro")]

    def build(tag: str, *words: str) -> subprocess.CompletedProcess[str]:
        return run(
            "buildah", "build", "--isolation", "chroot", "--pull-never", "--layers", *mounted,
            "--secret", f"id=pip,src={folder / 'pip.conf'}", "--tag", tag, *words, ROOT,
        )  # fmt: skip

    return build


@pytest.fixture(scope="module")
def call(built: Callable[..., subprocess.CompletedProcess[str]]) -> Call:
    """Calls a program in the image, without a network, in an empty folder; the user may be any."""
    done = built("swath", "--build-arg", "DEVICE=cpu")
    assert done.returncode == 0, done.stdout[-5000:]

    def call(command: str, user: str = "1000:1000") -> subprocess.CompletedProcess[str]:
        container = run("buildah", "from", "--pull-never", "swath").stdout.strip()
        done = run(
            "unshare", "--net", "buildah", "run", "--isolation", "chroot", "--user", user,
            container, "--", "bash", "-c", f"cd $(mktemp -d) && {command}",
        )  # fmt: skip
        run("buildah", "rm", container)
        return done

    return call


@image
@pytest.mark.slow
def test_another_build_of_torch_than_was_asked_for_stops_the_build(
    built: Callable[..., subprocess.CompletedProcess[str]], call: Call
) -> None:
    cuda = call("python -c 'import torch; print(torch.version.cuda)'").stdout.strip()
    assert cuda == "None", "the machine's settings of pip lead to a CPU build"
    done = built("wrong", "--build-arg", "DEVICE=gpu")
    assert done.returncode != 0
    assert "swath: DEVICE=gpu, but pip brought torch 2.13.0" in done.stdout


@image
@pytest.mark.slow
def test_it_holds_what_is_let_through_and_no_secret(call: Call) -> None:
    assert call("ls -A /opt/swath").stdout.split() == LET_THROUGH
    assert "No such file" in call("ls /etc/pip.conf").stdout
    assert call("find /opt/swath -name __pycache__ -o -name '*.egg-info'").stdout == ""


@image
@pytest.mark.slow
@pytest.mark.parametrize("user", ["1000:1000", "4242:4242"])
def test_it_plans_from_an_empty_folder_for_any_user(call: Call, user: str) -> None:
    plan = call("swath plan embedded --conf /opt/swath/conf && ls results/embedded/config", user)
    assert plan.returncode == 0, plan.stdout
    assert "trainer.yaml" in plan.stdout
    dry = call("snakemake -n --snakefile /opt/swath/workflow/Snakefile && ls -A", user)
    assert dry.returncode == 0, dry.stdout
    assert re.search(r"^report +1$", dry.stdout, re.M)


@image
@pytest.mark.slow
def test_a_cloud_job_installs_nothing(call: Call) -> None:
    for pip in ("pip", "python3 -m pip"):
        done = call(f"{pip} install --target .x snakemake-storage-plugin-s3 && ls -A")
        told = "pip install --target .x snakemake-storage-plugin-s3"
        assert done.stdout == f"swath: the image is complete; not done: {told}\n"
    there = ["slurm", "kubernetes", "aws_batch", "googlebatch"]
    imports = ", ".join(f"snakemake_executor_plugin_{name}" for name in there)
    done = call(f"python -c 'import {imports}, snakemake_storage_plugin_s3, onnxruntime'")
    assert done.returncode == 0, done.stdout


@image
@pytest.mark.slow
def test_it_runs_an_experiment_to_its_report_and_compiles(call: Call) -> None:
    pruned = (
        "data.drawing.scenes=2 data.drawing.size_px=256 patches.size_px=32 split.blocks.size_m=640 "
        "model.width=4 trainer.epochs=1 trainer.compile=true sweep=none"
    )
    done = call(
        "snakemake --cores 2 --snakefile /opt/swath/workflow/Snakefile --config "
        + shlex.quote(f"set={pruned}"),
        "4242:4242",
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "The report: results/embedded/report.html" in done.stdout
