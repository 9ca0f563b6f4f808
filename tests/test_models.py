"""Models: fetched from a hub, pinned, checked, and loaded without asking it again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants, file_download
from huggingface_hub.utils import reset_sessions  # type: ignore # documented, if not exported
from model_hub import COMMIT, TOKEN, Hub, files_of, serve

from earmark import REPOSITORY, cli
from earmark.configuration import resolve
from earmark.errors import SetupError
from earmark.models.inventory import find_whisper, named_in
from earmark.settings import AsrSettings

DEMO = REPOSITORY / "demo/models"
WHISPER, GEMMA, COPE = "lab/whisper-demo", "lab/gemma-demo", "lab/cope-demo"
#: Bytes of a file that huggingface_hub writes in two pieces.
LARGE = 12_000_000


@dataclass
class Machine:
    """A machine that has nothing yet, with a configuration and a hub to ask."""

    folder: Path
    hub: Hub
    capsys: pytest.CaptureFixture[str]

    def configure(self, **sections: dict[str, Any]) -> None:
        config: dict[str, Any] = {
            "volume": {"root": str(self.folder / "volume")},
            "asr": {"model": WHISPER},
            "classify": {"model": GEMMA, "adapter": COPE},
        }
        for section, keys in sections.items():
            config[section] |= keys
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
        return kept | {"HF_HOME": str(self.folder / "hf"), "HF_ENDPOINT": self.hub.address}

    def run(
        self, *arguments: str, offline: bool = False, token: str | None = None, address: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this process, with what huggingface_hub read from the environment."""
        address = address or self.hub.address
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_CACHE", str(self.folder / "hf/hub"))
            patch.setattr(constants, "HF_TOKEN_PATH", str(self.folder / "hf/token"))
            patch.setattr(constants, "HF_HUB_OFFLINE", offline)
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            patch.delenv("HF_TOKEN", raising=False)
            if token is not None:
                patch.setenv("HF_TOKEN", token)
            reset_sessions()
            self.capsys.readouterr()
            code = cli.main(
                ["models", *arguments, "--configfile", str(self.folder / "config.yaml")]
            )
        reset_sessions()
        said = self.capsys.readouterr()
        return subprocess.CompletedProcess([], code, said.out, said.err)

    def storage(self, model: str) -> Path:
        return self.folder / "hf/hub" / f"models--{model.replace('/', '--')}"

    def snapshot(self, model: str, commit: str = COMMIT) -> Path:
        return self.storage(model) / "snapshots" / commit


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Machine]:
    names = {WHISPER: "whisper-demo", GEMMA: "gemma-demo", COPE: "cope-demo"}
    hub = Hub({model: files_of(DEMO / folder) for model, folder in names.items()})
    hub.models[COPE]["README.md"] = b"the terms"
    hub.models[COPE]["adapter.gguf"] = b"for another program"
    with serve(hub):
        machine = Machine(tmp_path, hub, capsys)
        machine.configure()
        yield machine


@pytest.fixture
def whisper_alone(machine: Machine) -> Machine:
    """A machine whose other models are folders."""
    machine.configure(
        classify={"model": str(DEMO / "gemma-demo"), "adapter": str(DEMO / "cope-demo")}
    )
    return machine


@pytest.mark.slow
def test_models_are_fetched_whole_and_jobs_load_them_without_asking_the_hub(
    machine: Machine,
) -> None:
    done = machine.run("fetch", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["model"], row["commit"], row["pinned"]) for row in rows] == [
        (model, COMMIT, False) for model in (WHISPER, GEMMA, COPE)
    ]
    for model in (WHISPER, GEMMA, COPE):
        wanted = {n: c for n, c in machine.hub.models[model].items() if not n.endswith(".gguf")}
        assert files_of(machine.snapshot(model)) == wanted
    assert machine.run("verify").returncode == 0

    machine.hub.asked.clear()
    script = """
import sys
import tarfile
from pathlib import Path
from earmark.policy.classify import classify_archive
from earmark.configuration import read
from earmark.policy.policies import load_policies
from msgspec.structs import replace
from earmark.speech.transcribe import transcribe_archive
from earmark.tables import MANIFEST, TRANSCRIPTS, read_provenance, write_table
settings, folder = read(Path(sys.argv[1])), Path(sys.argv[2])
with tarfile.open(next(Path("demo/archives").glob("*_03.tar.gz"))) as archive:
    (folder / "clip").write_bytes(archive.extractfile(archive.next()).read())
row = {"archive": "a", "ordinal": 0, "member": "a.mp3", "source_bytes": 1, "status": "ok"}
row |= {"selected": True, "inclusion_probability": 1.0, "opus_path": "clip"}
write_table(folder / "m", MANIFEST, [row], {})
asr = replace(settings.asr, device="cpu", compute_type="float32", threads=1)
transcribe_archive(folder / "m", folder / "t", folder, asr, folder / "parts")
said = {"archive": "a", "ordinal": 0, "status": "ok", "text": "send me your password"}
write_table(folder / "s", TRANSCRIPTS, [said], {})
cpu = {"device": "cpu", "quantization": None, "dtype": "float32", "threads": 1}
classify = replace(settings.classify, max_tokens=2048, **cpu)
policies = load_policies(Path(classify.policies), ["scams"])
parts = folder / "class-parts"
classify_archive(folder / "s", folder / "c", policies, classify, "p", parts)
t, c = read_provenance(folder / "t"), read_provenance(folder / "c")
print(t["model"], t["model_revision"], c["model_revision"], c["adapter_revision"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, machine.folder / "config.yaml", machine.folder],
        env=machine.environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-4:] == [WHISPER, COMMIT, COMMIT, COMMIT]
    assert machine.hub.asked == []


def test_an_unpinned_model_is_told_where_to_pin_it_and_a_pinned_one_never_asks_again(
    whisper_alone: Machine,
) -> None:
    machine = whisper_alone
    unpinned = machine.run("fetch")
    assert f"{WHISPER} is not pinned" in unpinned.stderr
    assert f"set asr.revision: {COMMIT}" in unpinned.stderr
    machine.hub.commits[WHISPER] = newer = "d" * 40
    machine.hub.models[WHISPER] |= {"config.json": b'{"newer": 1}'}
    machine.configure(
        asr={"revision": COMMIT},
        classify={"model": str(DEMO / "gemma-demo"), "adapter": str(DEMO / "cope-demo")},
    )
    machine.hub.asked.clear()
    pinned = machine.run("fetch", "--json", offline=True)
    assert pinned.returncode == 0, pinned.stderr
    assert [(row["commit"], row["pinned"]) for row in json.loads(pinned.stdout)] == [(COMMIT, True)]
    assert "not pinned" not in pinned.stderr
    assert machine.hub.asked == []

    machine.configure(asr={"revision": newer}, classify={"model": str(DEMO / "gemma-demo")})
    missing = machine.run("verify", "--json", "--quick")
    assert missing.returncode == 1
    assert f"not been fetched at revision {newer}" in json.loads(missing.stdout)[0]["problem"]


def test_a_moved_branch_is_fetched_beside_the_old_commit_and_shares_equal_files(
    whisper_alone: Machine,
) -> None:
    machine = whisper_alone
    assert machine.run("fetch").returncode == 0
    machine.hub.commits[WHISPER] = newer = "d" * 40
    machine.hub.models[WHISPER] |= {"config.json": b'{"newer": 1}'}
    machine.hub.asked.clear()
    assert json.loads(machine.run("fetch", "--json").stdout)[0]["commit"] == newer
    assert machine.hub.ranges(WHISPER, "model.bin") == []
    assert (machine.snapshot(WHISPER) / "model.bin").exists()
    assert json.loads(machine.run("verify", "--json").stdout)[0]["commit"] == newer


@pytest.mark.parametrize("token", [None, TOKEN, "hf_" + "expired" * 4])
def test_a_gated_model_wants_its_licence_accepted_and_a_token_that_is_never_shown(
    machine: Machine, token: str | None
) -> None:
    machine.hub.gated = {GEMMA, COPE}
    done = machine.run("fetch", token=token)
    assert token is None or token not in done.stdout + done.stderr
    if token == TOKEN:
        assert done.returncode == 0, done.stderr
        # The store's addresses are signed; who runs it is not to see the token.
        assert {auth for _, path, _, auth in machine.hub.asked if "/store/" in path} == {None}
        return
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert machine.hub.ranges(WHISPER, "model.bin") == []  # nothing is brought before all may be
    if token is None:
        for model, key in ((GEMMA, "classify.model"), (COPE, "classify.adapter")):
            assert f"{model} ({key}) is gated: accept its licence on " in done.stderr
            assert f"{machine.hub.address}/{model} with an account" in done.stderr
        assert "HF_TOKEN" in done.stderr
    else:
        assert f"answered 401 for {GEMMA}; HF_TOKEN is expired" in done.stderr


def test_a_killed_fetch_leaves_nothing_that_counts_and_the_next_one_goes_on_where_it_ended(
    whisper_alone: Machine,
) -> None:
    machine = whisper_alone
    machine.hub.models[WHISPER]["model.bin"] = os.urandom(LARGE)
    machine.hub.stall = LARGE - 1
    command = ["earmark", "models", "fetch", "--configfile", str(machine.folder / "config.yaml")]
    process = subprocess.Popen(command, env=machine.environment(), stderr=subprocess.DEVNULL)
    assert machine.hub.sent.wait(30)
    (partial,) = wait_for(machine.storage(WHISPER) / "blobs", "*.incomplete")
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = partial.stat().st_size
    assert 0 < left < LARGE
    unfinished = machine.run("verify")
    assert unfinished.returncode == 1
    assert "earmark models fetch" in unfinished.stdout
    machine.hub.stall = None
    assert machine.run("fetch").returncode == 0
    assert machine.hub.ranges(WHISPER, "model.bin") == [None, f"bytes={left}-"]
    assert machine.run("verify").returncode == 0


def wait_for(folder: Path, pattern: str) -> list[Path]:
    """Files that match, once one has contents."""
    for _ in range(300):
        if found := [path for path in folder.glob(pattern) if path.stat().st_size]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder}")


def test_a_connection_that_breaks_is_taken_up_by_itself(whisper_alone: Machine) -> None:
    whisper_alone.hub.models[WHISPER]["model.bin"] = os.urandom(LARGE)
    whisper_alone.hub.cut = LARGE - 1
    done = whisper_alone.run("fetch")
    assert done.returncode == 0, done.stderr
    assert "the connection broke" in done.stderr
    whole, rest = whisper_alone.hub.ranges(WHISPER, "model.bin")
    assert whole is None
    assert rest == f"bytes={constants.DOWNLOAD_CHUNK_SIZE}-"
    assert whisper_alone.run("verify").returncode == 0


def test_a_file_that_arrives_changed_is_fetched_anew_and_refused_if_it_stays_so(
    whisper_alone: Machine,
) -> None:
    whisper_alone.hub.flipped = 2
    done = whisper_alone.run("fetch")
    assert done.returncode == 2
    assert "model.bin is damaged (sha256 is not " in done.stderr
    assert "although it was fetched anew" in done.stderr
    assert whisper_alone.run("verify").returncode == 1
    whisper_alone.hub.flipped = 1
    done = whisper_alone.run("fetch")
    assert done.returncode == 0, done.stderr
    assert whisper_alone.run("verify").returncode == 0


@pytest.mark.parametrize("name", ["model.bin", "vocabulary.json"])
def test_verify_names_a_file_that_rotted_and_fetch_brings_just_that(
    whisper_alone: Machine, name: str
) -> None:
    machine = whisper_alone
    assert machine.run("fetch").returncode == 0
    path = machine.snapshot(WHISPER) / name
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert machine.run("verify", "--quick").returncode == 0  # its size is right
    done = machine.run("verify", "--json", address="http://127.0.0.1:1")
    assert done.returncode == 1
    problems = [row for row in json.loads(done.stdout) if row["problem"]]
    assert [row["key"] for row in problems] == ["asr.model"]
    assert f"{name} is damaged" in problems[0]["problem"]
    assert "earmark models fetch" in problems[0]["problem"]
    machine.hub.asked.clear()
    assert machine.run("fetch").returncode == 0
    assert {p for _, p, _, _ in machine.hub.asked if "/resolve/" in p} == {
        f"/{WHISPER}/resolve/{COMMIT}/{name}"
    }
    assert path.read_bytes() == content
    assert machine.run("verify").returncode == 0


def test_what_was_downloaded_in_another_way_is_checked_and_not_brought_again(
    whisper_alone: Machine,
) -> None:
    machine = whisper_alone
    assert machine.run("fetch").returncode == 0
    shutil.rmtree(machine.storage(WHISPER) / "earmark")
    assert machine.run("verify").returncode == 1
    machine.hub.asked.clear()
    assert machine.run("fetch").returncode == 0
    assert [path for _, path, _, _ in machine.hub.asked if "/api/" not in path] == []
    assert machine.run("verify").returncode == 0


def test_a_damaged_list_of_files_is_explained(whisper_alone: Machine) -> None:
    machine = whisper_alone
    assert machine.run("fetch").returncode == 0
    (machine.storage(WHISPER) / "earmark/main.json").write_text("{")
    done = machine.run("verify", "--json")
    assert done.returncode == 1
    assert "main.json, which lists the files of lab/whisper-demo, is damaged" in done.stdout


def test_what_is_missing_or_cut_short_is_found_without_reading(whisper_alone: Machine) -> None:
    machine = whisper_alone
    assert machine.run("fetch").returncode == 0
    (machine.snapshot(WHISPER) / "tokenizer.json").resolve().unlink()
    model = (machine.snapshot(WHISPER) / "model.bin").resolve()
    os.truncate(model, 1000)
    problems = [r["problem"] for r in json.loads(machine.run("verify", "--quick", "--json").stdout)]
    assert "model.bin is damaged (1000 bytes instead of " in problems[0]
    assert "tokenizer.json is missing" in problems[1]


@pytest.mark.parametrize(
    ("asr", "message"),
    [
        ({"model": "lab/whispr"}, "shows no model lab/whispr to an account; correct asr.model"),
        ({"model": "large-v9"}, "asr.model is 'large-v9', which is neither a Whisper model"),
        ({"model": COPE}, f"{COPE} has no model.bin, so it is not what asr.model wants"),
        ({"revision": "e" * 40}, f"has no commit {'e' * 40}; correct asr.revision"),
        ({"revision": "main"}, "'asr.revision' is 'main', which does not match"),
        (
            {"model": str(DEMO / "whisper-demo"), "revision": COMMIT},
            "asr.revision pins a model of the hub, but asr.model names the folder",
        ),
        ({"model": "./nowhere"}, "which is missing or holds no model.bin"),
    ],
)
def test_a_model_that_is_not_there_is_explained(
    whisper_alone: Machine, asr: dict[str, str], message: str
) -> None:
    folders = {"model": str(DEMO / "gemma-demo"), "adapter": str(DEMO / "cope-demo")}
    whisper_alone.configure(asr=asr, classify=folders)
    done = whisper_alone.run("fetch")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_cannot_be_asked_is_explained(whisper_alone: Machine) -> None:
    away = whisper_alone.run("fetch", address="http://127.0.0.1:1")
    assert away.returncode == 2
    assert f"{WHISPER} can't be fetched from http://127.0.0.1:1" in away.stderr
    offline = whisper_alone.run("fetch", offline=True)
    assert offline.returncode == 2
    assert "run this command with HF_HUB_OFFLINE=0" in offline.stderr


def test_a_name_that_would_leave_the_models_folder_is_refused(whisper_alone: Machine) -> None:
    whisper_alone.hub.models[WHISPER]["../../../../precious"] = b"x"
    done = whisper_alone.run("fetch")
    assert done.returncode == 2
    assert "which can't be" in done.stderr


def test_the_models_wanted_are_those_of_the_configuration() -> None:
    assert [model.repository for model in named_in(resolve({}))] == [
        "Systran/faster-whisper-large-v2",
        "google/gemma-2-9b",
        "zentropi-ai/cope-a-9b",
    ]
    folders = resolve({"asr": {"model": "/models/whisper"}, "classify": {"adapter": None}})
    assert [model.is_folder for model in named_in(folders)] == [True, False]


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("large-v3-turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
        ("distil-large-v3.5", "distil-whisper/distil-large-v3.5-ct2"),
    ],
)
def test_faster_speech_models_go_by_their_names(model: str, repository: str) -> None:
    assert named_in(resolve({"asr": {"model": model}}))[0].repository == repository


@pytest.mark.parametrize("model", ["distil-large-v3.5", "distil-whisper/distil-large-v3.5-ct2"])
def test_a_model_that_hears_english_alone_wants_to_be_told_that_it_will_do(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for language in (None, "es"):
        with pytest.raises(SetupError, match=r"hears English alone.*set asr\.language to en"):
            find_whisper(AsrSettings(model=model, language=language))
    with pytest.raises(SetupError, match="has not been fetched"):
        find_whisper(AsrSettings(model=model, language="en"))


def test_a_run_refuses_to_start_without_its_models(whisper_alone: Machine) -> None:
    config = whisper_alone.folder / "config.yaml"
    (whisper_alone.folder / "volume").mkdir()
    done = subprocess.run(
        ["earmark", "cycle", "--configfile", config],
        env=whisper_alone.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"asr.model names {WHISPER}, which has not been fetched; run `earmark models fetch`" in (
        done.stderr
    )


@pytest.mark.parametrize("action", ["fetch", "verify"])
def test_both_explain_themselves(action: str) -> None:
    done = subprocess.run(["earmark", "models", action, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--configfile FILE" in done.stdout
