"""Encode one archive's members to Opus and write its manifest."""

from pathlib import Path

from earmark.encoding import encode_archive
from earmark.erasure import Erased
from earmark.stages import stage
from earmark.media import EncodeSettings
from earmark.room import RoomLimits, encode_when_there_is_room
from earmark.selection import Selection, SelectionSettings
from earmark.volume import Volume

archive, date = snakemake.wildcards.archive, snakemake.wildcards.date
volume = Volume(Path(snakemake.config["volume"]["root"]))
selection = SelectionSettings(**snakemake.config["selection"])
room = RoomLimits(**snakemake.config["room"])


def encode():
    encode_archive(
        Path(snakemake.input.folder),
        audio_folder=volume.audio(date, archive),
        manifest=Path(snakemake.output.manifest),
        archive=archive,
        volume_root=volume.root,
        settings=EncodeSettings(**snakemake.config["encode"] | {"workers": snakemake.threads}),
        selection=Selection(selection, volume, date),
        erased=Erased(volume),
    )


with stage("encode_opus", archive, volume, Path(snakemake.log[0])) as lock:
    encode_when_there_is_room(encode, volume.root, room, lock.renew)
