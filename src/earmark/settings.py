"""What can be configured: every key with its type, its limits, its default and its meaning.

This is the one place that says so. The docstrings are read too: :func:`schema` takes the meaning
of each key from them, and ``make settings`` writes ``config/config.yaml``, the tables of
``config/README.md`` and ``workflow/schemas/config.schema.yaml`` from it. What a file holds is
read and checked by :mod:`earmark.configuration`.
"""

import inspect
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from earmark.errors import EarmarkError

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Hour = Annotated[int, Meta(ge=0, le=23)]
Text = Annotated[str, Meta(min_length=1)]
#: A name that becomes part of a path.
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
#: Of a repository of the model hub.
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]

#: Category of the screening policy. No file of a policy can be called so.
SCREEN = "any_policy"

_UNIQUE = Meta(extra_json_schema={"uniqueItems": True})


def _check_unique(values: Collection[object]) -> None:
    if len(set(values)) < len(values):
        raise ValueError("expected different items")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys that stand together in the configuration."""


class VolumeSettings(_Section, frozen=True):
    """Where results lie.

    Attributes:
        root: The shared volume; everything Earmark writes lies below it. The environment variable
            VOLUME_ROOT overrides it.
    """

    root: Annotated[str, Meta(pattern=r"^[^{}]+$")] = "/mnt/data"  # braces would be wildcards


class SourceSettings(_Section, frozen=True):
    """Where archives come from, and which are taken when.

    Attributes:
        kind: How archives are reached: `ssh` is a host that OpenSSH and rsync reach, `folder` a
            directory of this machine. `files` is a directory of this machine, with all below it, of
            loose audio files, and `list` those of them that a list names; they are put into
            archives on the way.
        host: The host, by its alias in the SSH configuration (kind `ssh`).
        ssh_config: The SSH configuration file that has the alias, its user and its key (kind
            `ssh`).
        directory: Where archives appear. Every file counts, whatever its name ends in, hidden ones
            excepted. With kind `files` or `list`, what the files lie below.
        list: The list, a `.csv`, `.jsonl` or `.parquet` file whose column `path` names files below
            `directory`; all other columns become the clips' metadata (kind `list`).
        archive_files: Most loose files that are put into one archive (kinds `files`, `list`).
        archive_bytes: Most bytes that loose files in one archive have; a larger file gets one of
            its own (kinds `files`, `list`).
        latency_minutes: Only archives that have not changed for this many minutes are taken.
        poll_seconds: Only archives are taken that two looks at least this many seconds apart saw
            with the same size and time. A cycle looks so often.
        batch: Most archives that one run fetches, or that a cycle has in work at a time; more wait.
        order: Which archives come first. With `deadline` the oldest, but on the GPUs those that can
            still be loaded by `review.noon`.
        verify: Whether the source is asked again, after an archive was copied, for its size and
            time.
        delete_after: Whether an archive is deleted at the source once its receipt says ok, provided
            it still has the same size and time there.
    """

    kind: Literal["ssh", "folder", "files", "list"] = "ssh"
    # An option or a command would be no host.
    host: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]*$")] = "tt-zrh"
    ssh_config: Text = "~/.ssh/ssh_config"
    directory: Text = "/mnt/hub/export/sound"
    list: Text | None = None
    archive_files: Positive = 1000
    archive_bytes: Positive = 1 << 30
    latency_minutes: NotNegative = 10
    poll_seconds: NotNegative = 60
    batch: Positive = 50
    order: Literal["deadline", "oldest", "newest"] = "deadline"
    verify: bool = True
    delete_after: bool = False

    def __post_init__(self) -> None:
        """Refuse what loose files can't have.

        Raises:
            EarmarkError: there is no list, or loose files were to be deleted.
        """
        if self.kind == "list" and self.list is None:
            raise EarmarkError(
                "the config's 'source.list' is missing, which source.kind list needs; name a "
                ".csv, .jsonl or .parquet file"
            )
        if self.kind in ("files", "list") and self.delete_after:
            raise EarmarkError(
                "the config's 'source.delete_after' is true, and Earmark deletes no loose files; "
                f"leave it out with source.kind {self.kind}"
            )


class TransferSettings(_Section, frozen=True):
    """How archives are fetched.

    Attributes:
        timeout_minutes: Time one archive may take to fetch. Whoever holds an archive longer without
            a sign of life is given up.
        stall_seconds: A connection that is silent for this long is taken for lost.
    """

    timeout_minutes: AboveZero = 60
    stall_seconds: Positive = 60


class DiskSpaceLimits(_Section, frozen=True):
    """How full the volume may get; each limit holds for bytes and for inodes.

    Attributes:
        warn_percent: Use of the volume, in bytes or inodes, from which on stages warn.
        stop_fetching_percent: Archives that would fill the volume this far are not fetched; their
            stage waits.
        stop_encoding_percent: From here on nothing is unpacked or encoded; these stages wait.
        check_seconds: How often a stage that waits for room looks again.
    """

    warn_percent: Percent = 75
    stop_fetching_percent: Percent = 85
    stop_encoding_percent: Percent = 92
    check_seconds: AboveZero = 30


class UnpackLimits(_Section, frozen=True):
    """How much one archive may take; reading ends where a limit is exceeded.

    Attributes:
        max_members: Members read from one archive; the rest is left and the archive is `partial`.
        max_member_bytes: A larger member is a failed row.
        max_total_bytes: Bytes extracted from one archive before it is cut off.
        max_ratio: Largest ratio of unpacked to compressed bytes (gzip bombs).
        timeout_seconds: Time that reading one archive may keep a core busy.
    """

    max_members: Positive = 200_000
    max_member_bytes: Positive = 1 << 30
    max_total_bytes: Positive = 128 << 30
    max_ratio: Annotated[float, Meta(gt=1)] = 200
    timeout_seconds: AboveZero = 7200


class EncodeSettings(_Section, frozen=True):
    """How Opus files are made.

    The defaults keep to their bit rate and take less than a quarter of the CPU time of
    ``ffmpeg -c:a libopus -b:a 48k``, most of it saved by mono and by complexity 0, which
    leaves a spectrum no worse than that of ffmpeg's files (``docs/ingest.md``).

    Attributes:
        bitrate: Opus bit rate, in kbit/s.
        channels: Channels kept.
        complexity: libopus's effort, 0 (fast) to 10. More costs up to four times the time for
            little in mono at 48 kbit/s.
        application: libopus's tuning.
        vbr: Variable bit rate; unconstrained (`on`) makes speech up to a quarter larger.
        workers: Processes that encode one archive side by side.
        timeout_seconds: Time one file may keep a core busy; then it is a failed row.
    """

    bitrate: Annotated[str, Meta(pattern=r"^[1-9][0-9]*k$")] = "48k"
    channels: Literal[1, 2] = 1
    complexity: Annotated[int, Meta(ge=0, le=10)] = 0
    application: Literal["audio", "voip", "lowdelay"] = "audio"
    vbr: Literal["constrained", "on", "off"] = "constrained"
    workers: Positive = 4
    timeout_seconds: AboveZero = 300

    def __post_init__(self) -> None:
        """Refuse what libopus would refuse.

        Raises:
            EarmarkError: the bit rate is too low or too high.
        """
        if not 6_000 <= self.bits_per_second <= 256_000 * self.channels:
            raise EarmarkError(
                f"the config's 'encode.bitrate' is {self.bitrate!r}; expected 6k to 256k for each "
                "channel"
            )

    @property
    def bits_per_second(self) -> int:
        """The bit rate as a number."""
        return int(self.bitrate.removesuffix("k")) * 1000


class SelectionSettings(_Section, frozen=True):
    """Which clips are drawn for transcription.

    Attributes:
        fraction: Probability with which a clip is drawn for transcription; with `max_clips_per_day`
            the largest one.
        max_clips_per_day: About so many clips are drawn of the archives of one date, by a smaller
            probability for each; null for no limit.
        min_seconds: Shorter clips are never drawn.
        max_seconds: Longer clips are never drawn; null for no limit.
    """

    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    max_clips_per_day: Positive | None = None
    min_seconds: NotNegative = 0
    max_seconds: AboveZero | None = None

    def __post_init__(self) -> None:
        """Refuse what no clip could pass.

        Raises:
            EarmarkError: the longest clips would be shorter than the shortest ones.
        """
        if self.max_seconds is not None and self.max_seconds < self.min_seconds:
            raise EarmarkError(
                f"the config's 'selection.max_seconds' is {self.max_seconds:g}, which is less than "
                f"'selection.min_seconds', {self.min_seconds:g}; no clip could ever be drawn"
            )

    def admits(self, duration_seconds: float) -> bool:
        """Whether a clip of this duration can be drawn."""
        longest = float("inf") if self.max_seconds is None else self.max_seconds
        return self.min_seconds <= duration_seconds <= longest


class AsrSettings(_Section, frozen=True):
    """How clips are transcribed.

    Attributes:
        name: Name of this set of transcription settings; part of the path of every transcript.
            Change it when you change the model.
        model: A Whisper model's name, such as `large-v3-turbo`, or a folder with a CTranslate2
            model. [models.md](../docs/models.md#faster-speech-models) compares some.
        revision: The hub's commit (40 hexadecimal digits) that the model is pinned to, or null for
            the one that was fetched last. `earmark models fetch` names it.
        device: Where the model runs.
        compute_type: CTranslate2's number format.
        batch_size: Windows of up to 30 s, of any clips, that go through the model together; halved
            by itself when the GPU's memory is full.
        beam_size: Beams of the decoder; 1 is faster and hears less well.
        language: Language of all clips (ISO 639-1), or null to detect it for each clip.
        vad: Voice activity detection, by a model that ships with WhisperX (`pyannote`) or
            faster-whisper (`silero`).
        threads: CPU threads per job. With more than one, processes prepare clips ahead of the
            model.
        checkpoint_seconds: At most so much work is lost when a job is killed: the next one goes on
            from there. Windows of clips that were not heard to their end yet, four batches at the
            most, are heard again.
    """

    name: Label = "large-v2-fp16"
    model: Text = "large-v2"
    revision: Commit | None = None
    device: Literal["cuda", "cpu"] = "cuda"
    compute_type: Literal["float16", "int8_float16", "int8", "float32"] = "float16"
    batch_size: Positive = 16
    beam_size: Positive = 5
    language: str | None = None
    vad: Literal["pyannote", "silero"] = "pyannote"
    threads: Positive = 4
    checkpoint_seconds: NotNegative = 60


class ScreenSettings(_Section, frozen=True):
    """What is asked before the policies are.

    Attributes:
        threshold: Screening score from which on a clip goes through the policies.
        audit_fraction: Probability with which a clip below it does all the same.
    """

    threshold: Share = 0.1
    audit_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.05


class ClassifySettings(_Section, frozen=True):
    """Which policies are applied, by which model and how.

    Attributes:
        policy: Name of the policy set; part of the path of every classification. Editing a policy
            or changing a threshold under an old name is refused.
        policies: Folder with one written policy (`{category}.md`) per category, and
            [examples](../docs/policies.md#examples) that the model is checked by.
        categories: Categories to apply, or null for every file in the folder.
        model: The base model: a hub name or a folder.
        revision: The commit that the base model is pinned to, as `asr.revision`.
        adapter: The LoRA adapter: a hub name or a folder such as /models/cope-a-lora; null for
            none.
        adapter_revision: The commit that the adapter is pinned to, likewise.
        adapter_fits: That the adapter belongs to the model although it names another one, or none:
            by default its `base_model_name_or_path` must end in the same name.
        device: Where the model runs.
        quantization: Quantization of the base model by bitsandbytes, `8bit` (LLM.int8) or `4bit`
            (NF4), or null for none; on a CPU both work and neither is faster. `auto` is none where
            the GPU's memory holds the model unquantized, which is fastest, and `8bit` otherwise;
            the first job that a `policy` name is used in decides for all under the name.
        llm_int8_threshold: With `8bit`, inputs of a layer that have a value from this one on are
            multiplied in 16 bits. 0 for none is faster, and changes scores.
        dtype: Number format of what is not quantized.
        answer: `logits`: one step of the model, score from the tokens "0" and "1", as CoPE-A was
            trained for; `json`: an instruction-tuned model (such as google/gemma-2-9b-it, with
            `adapter: null`) writes `{"flagged", "score", "category"}`.
        max_new_tokens: Longest JSON answer, in tokens; a longer one is cut off and `unparsed`.
        batch_size: Transcripts that go through the model together.
        max_tokens: Length of policy, transcript and JSON answer together; a longer transcript is
            cut and marked.
        threads: CPU threads per job.
        checkpoint_seconds: At most so much work is lost when a job is killed: the next one goes on
            from there.
        threshold: Score from which a clip is flagged. It stands on each score. Another one wants a
            new `policy` name, so that rates and queue never mix two;
            [reclassify](../docs/operations.md#applying-another-policy-set) applies it to what is
            done.
        thresholds: Thresholds of single categories, such as `{scams: 0.7}`.
        screen: Null, or `{threshold: 0.1, audit_fraction: 0.05}`: one
            [screening policy](../docs/policies.md#the-screen) with the labels of all is asked
            first, and only clips from this score on go through each policy; of the rest a random
            share does, by which the report measures what the screen misses.
    """

    policy: Label = "2026-11"
    policies: Text = "config/policies"
    categories: Annotated[tuple[str, ...], Meta(min_length=1), _UNIQUE] | None = None
    model: Text = "google/gemma-2-9b"
    revision: Commit | None = None
    adapter: str | None = "zentropi-ai/cope-a-9b"
    adapter_revision: Commit | None = None
    adapter_fits: bool = False
    device: Literal["cuda", "cpu"] = "cuda"
    quantization: Literal["auto", "8bit", "4bit", None] = "8bit"
    llm_int8_threshold: NotNegative = 6.0
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    answer: Literal["logits", "json"] = "logits"
    max_new_tokens: Annotated[int, Meta(ge=16)] = 100
    batch_size: Positive = 32
    max_tokens: Annotated[int, Meta(ge=64)] = 8192
    threads: Positive = 4
    checkpoint_seconds: NotNegative = 60
    threshold: Share = 0.5
    thresholds: dict[str, Share] = {}
    screen: ScreenSettings | None = None

    def __post_init__(self) -> None:
        """Refuse categories that are named twice."""
        _check_unique(self.categories or ())

    def threshold_of(self, category: str) -> float:
        """Lowest score that is flagged in a category, or passes the screen, 0..1."""
        if category == SCREEN and self.screen is not None:
            return self.screen.threshold
        return self.thresholds.get(category, self.threshold)


class ReclassifySettings(_Section, frozen=True):
    """Which archives get another policy set.

    Attributes:
        since: First date of the archives that the target `reclassify` is about, `YYYY-MM-DD` in
            quotes.
        until: Last date of them.
    """

    since: str | None = None
    until: str | None = None


class FailureSettings(_Section, frozen=True):
    """When an archive is given up.

    Attributes:
        max_attempts: So many failures of one stage that machines may be to blame for put an archive
            into quarantine, until `earmark retry` releases it.
    """

    max_attempts: Positive = 3


class CycleSettings(_Section, frozen=True):
    """How long `earmark cycle` runs.

    Attributes:
        max_hours: After so many hours `earmark cycle` starts no more jobs, lets the running ones
            end, and leaves the rest to the next cycle.
        idle_minutes: `earmark cycle` ends when for so long nothing was left to do.
        await_minutes: So long `earmark cycle` lets SLURM jobs that a killed run has left go on
            before it cancels them.
    """

    max_hours: AboveZero = 6
    idle_minutes: NotNegative = 10
    await_minutes: NotNegative = 15


class SampleSettings(_Section, frozen=True):
    """The sample that is heard among the queue's top.

    Attributes:
        per_day: So many clips are drawn each day from all that were transcribed.
    """

    per_day: Positive = 50


class ReviewSettings(_Section, frozen=True):
    """How much is to wait for review, and when.

    Attributes:
        target: So many flagged clips are to wait for review each day at `noon`; `earmark status`
            says whether they will.
        noon: The time of day, `HH:MM` in quotes.
        timezone: Whose clock that is, by its name in the IANA time zone database.
        alert: Command that `earmark report --alert` runs when noon will be missed, such as `mail -s
            Earmark lab@example.org`; it gets the warning on standard input, and no shell is
            between.
        sample: Null, or `{per_day: 50}`: so many clips, drawn each day from all that were
            transcribed, are heard among the `target`, to learn
            [how much harm there is](../docs/evidence.md); the pages then show nobody what the
            model flagged before they decide.
        alert_hours: Hours of that clock in which `earmark report --alert` runs it; a timer asks
            each hour.
    """

    target: Positive = 200
    noon: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "12:00"
    timezone: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$")] = "Europe/Zurich"
    alert: Text | None = None
    alert_hours: Annotated[tuple[Hour, ...], _UNIQUE] = (6, 9, 11)
    sample: SampleSettings | None = None

    def __post_init__(self) -> None:
        """Refuse hours that are named twice."""
        _check_unique(self.alert_hours)


class QueueSettings(_Section, frozen=True):
    """What is reviewed besides what was flagged.

    Attributes:
        control_fraction: Probability with which a transcribed clip that no category flagged is
            drawn for review all the same (`earmark queue --controls`).
    """

    control_fraction: Share = 0.0


class DeskSettings(_Section, frozen=True):
    """How the review desk is served.

    Attributes:
        address: Where `earmark review` listens. From other machines it answers over TLS only, so a
            proxy stands before it (docs/review.md).
        port: The port there; 0 takes a free one.
        lease_seconds: So long an open item stays with a reviewer whose browser gives no sign of
            life.
        second_review_fraction: Share of reviewed clips that a second reviewer hears without knowing
            of the first.
        session_hours: A reviewer is signed out so long after signing in.
        idle_minutes: The same so long after the last thing done or played.
    """

    address: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8400
    lease_seconds: Annotated[float, Meta(ge=3)] = 120
    second_review_fraction: Share = 0.1
    session_hours: AboveZero = 10
    idle_minutes: AboveZero = 60


class RetentionSettings(_Section, frozen=True):
    """How long things are kept.

    Attributes:
        archives: What happens to a fetched archive once its receipt exists.
        audio_days: Days after its receipt from which on `earmark clean` removes audio that no
            policy ever flagged; null keeps it all.
        flagged_audio_days: The same for audio that a policy flagged or could not decide about.
        text_days: Days after its loading from which on `earmark clean` removes an archive's
            transcripts and scores, and its clips from the database but for those that somebody
            decided about; null keeps them.
        reports_days: Days after which `earmark clean` removes a daily report; its queue holds
            transcripts.
        logs_days: Days after which `earmark clean` removes a log; that of erasures stays.
        abandoned_days: Days after which `earmark clean` removes what was fetched or encoded of an
            archive that is neither done nor at the source any more.
    """

    archives: Literal["delete", "keep"] = "delete"
    audio_days: AboveZero | None = None
    flagged_audio_days: AboveZero | None = None
    text_days: AboveZero | None = None
    reports_days: AboveZero | None = None
    logs_days: AboveZero | None = None
    abandoned_days: NotNegative = 7


class DatabaseSettings(_Section, frozen=True):
    """Where the database is, and where its backups are.

    Attributes:
        url: Connection URI without a password. Null: POSTGRES_* or libpq's own variables decide,
            and with none of them an embedded server under volume.root.
        patience_minutes: So long loading waits for a database that is down, before it fails and is
            tried again.
        backups: Folder that `earmark backup` dumps the database into, best on another disk; null:
            `backups` below volume.root.
        keep_backups: So many of them are kept, the newest ones.
    """

    url: str | None = None
    patience_minutes: NotNegative = 30
    backups: Text | None = None
    keep_backups: Positive = 7


class Settings(_Section, frozen=True):
    """Earmark's configuration: an attribute for each section."""

    volume: VolumeSettings = VolumeSettings()
    source: SourceSettings = SourceSettings()
    transfer: TransferSettings = TransferSettings()
    room: DiskSpaceLimits = DiskSpaceLimits()
    unpack: UnpackLimits = UnpackLimits()
    encode: EncodeSettings = EncodeSettings()
    selection: SelectionSettings = SelectionSettings()
    asr: AsrSettings = AsrSettings()
    classify: ClassifySettings = ClassifySettings()
    reclassify: ReclassifySettings = ReclassifySettings()
    failure: FailureSettings = FailureSettings()
    cycle: CycleSettings = CycleSettings()
    review: ReviewSettings = ReviewSettings()
    queue: QueueSettings = QueueSettings()
    desk: DeskSettings = DeskSettings()
    retention: RetentionSettings = RetentionSettings()
    database: DatabaseSettings = DatabaseSettings()


def schema() -> dict[str, Any]:
    """The same as a JSON Schema, draft 2020-12."""
    as_json = msgspec.json.encode(msgspec.json.schema(Settings))  # which has no tuples
    generated = msgspec.json.decode(as_json)["$defs"]
    sections = {}
    for section in msgspec.structs.fields(Settings):
        meanings = _meanings(section.type)
        sections[section.name] = {
            "type": "object",
            "additionalProperties": False,
            "default": {},
            "properties": {
                key: _nullable(rules, generated) | {"description": meanings[key]}
                for key, rules in generated[section.type.__name__]["properties"].items()
            },
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Earmark's configuration",
        "description": "Every key with its default. Made by `make settings` from earmark.settings.",
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
    }


def _nullable(rules: dict[str, Any], generated: dict[str, Any]) -> dict[str, Any]:
    """Rules with null as one more type: a message about a choice of rules would name none."""
    if "anyOf" not in rules:
        return rules
    value: dict[str, Any]
    value, null = rules.pop("anyOf")
    if "$ref" in value:  # keys within a key
        inner = generated[value["$ref"].rpartition("/")[2]]
        value = {key: inner[key] for key in ("type", "additionalProperties", "properties")}
    return value | {"type": [value["type"], null["type"]]} | rules


def _meanings(section: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstring of a section says about each of its keys."""
    _, _, attributes = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"(?m)^    (\w+): (.*(?:\n {8}.*)*)", attributes)
    return {key: " ".join(text.split()) for key, text in entries}
