"""Extract the members of one archive under names of our own."""

from pathlib import Path

from earmark.archive import UnpackLimits, unpack_archive
from earmark.stages import stage
from earmark.room import RoomLimits, encode_when_there_is_room
from earmark.volume import Volume

volume = Volume(Path(snakemake.config["volume"]["root"]))
room = RoomLimits(**snakemake.config["room"])


def unpack():
    unpack_archive(
        Path(snakemake.input.archive),
        destination=Path(snakemake.output.folder),
        limits=UnpackLimits(**snakemake.config["unpack"]),
    )


with stage("unpack_archive", snakemake.wildcards.archive, volume, Path(snakemake.log[0])) as lock:
    needed = Path(snakemake.input.archive).stat().st_size
    encode_when_there_is_room(unpack, volume.root, room, lock.renew, needed)
