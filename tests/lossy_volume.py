"""A file system that keeps account of what a power cut would leave of it.

It promises what POSIX does and no more: the bytes of a file last once fsync(2) of the file has
returned, and a name once fsync(2) of its folder has.  What wasn't synced may survive or not, each
write and each name by itself, and of a write the sectors on one side of some boundary alone; only a
rename is never half done, as on every file system with a journal (Pillai and others, "All File
Systems Are Not Created Equal", OSDI 2014).

:func:`mounted` gives a folder whose changes are recorded, and :class:`Disk` plays the record up to
any point and leaves there what a power cut would (Mohan and others, "Finding Crash-Consistency Bugs
with Bounded Black-Box Crash Testing", OSDI 2018): one run is enough for any number of cuts.
"""

import errno
import os
import pickle
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

#: What a disk writes whole or not at all, in bytes.
SECTOR = 512
#: Share of the writes that are torn, of those that don't survive whole where some do.
TORN = 0.2
#: Number of the topmost folder.
ROOT = 1


class Make(NamedTuple):
    """A new inode, without a name yet."""

    inode: int
    facts: dict[str, int]


class Name(NamedTuple):
    """Names that come and go together: (folder, name, inode), of which None takes the name away."""

    changes: tuple[tuple[int, str, int | None], ...]


class Write(NamedTuple):
    """Bytes at an offset; a file that ends before grows."""

    inode: int
    offset: int
    data: bytes
    time_ns: int


class Resize(NamedTuple):
    """A file gets another size."""

    inode: int
    size: int
    time_ns: int


class Describe(NamedTuple):
    """Mode, owner or times of an inode."""

    inode: int
    facts: dict[str, int]


class Sync(NamedTuple):
    """fsync(2) of a file or folder has returned."""

    inode: int


Step = Make | Name | Write | Resize | Describe | Sync


@dataclass
class Inode:
    """A file or folder at one moment."""

    facts: dict[str, int]
    content: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.facts["st_mode"])

    def copy(self) -> "Inode":
        return Inode(dict(self.facts), bytearray(self.content), dict(self.names))

    def change(self, step: Write | Resize | Describe) -> None:
        if isinstance(step, Describe):
            self.facts.update(step.facts)
            return
        self.facts["st_mtime"] = step.time_ns
        end = step.size if isinstance(step, Resize) else step.offset
        if len(self.content) < end:
            self.content.extend(bytes(end - len(self.content)))
        if isinstance(step, Resize):
            del self.content[end:]
        else:
            self.content[end : end + len(step.data)] = step.data


class Disk:
    """What processes see after some steps, and what of that is sure to last.

    Args:
        trusting: Within a folder that is made under this name, a file's name lasts as soon as its
            bytes do.  Journals of ext4, XFS and Btrfs have it so, and PostgreSQL depends on it.

    Attributes:
        seen: Inodes by number, as processes see them.
        steps: How many steps have been taken.
    """

    def __init__(self, trusting: str | None = None) -> None:
        facts = {"st_mode": stat.S_IFDIR | 0o755, "st_uid": os.geteuid(), "st_gid": os.getegid()}
        facts |= {"st_atime": 0, "st_mtime": 0, "st_ctime": 0}
        self.seen = {ROOT: Inode(dict(facts))}
        self.steps = 0
        self._trusting, self._trusted = trusting, set[int]()
        self._kept = {ROOT: Inode(dict(facts))}
        #: When the kept name of a folder last changed: what is synced late may be older.
        self._since: dict[tuple[int, str], int] = {}
        #: What may be lost, in order: changes of inodes, and of the names in folders.
        self._loose: dict[int, list[Write | Resize | Describe]] = {}
        self._loose_names: dict[int, Name] = {}
        #: Which of those last once a folder, or a file whose name is trusted, is synced.
        self._waiting: dict[int, list[int]] = {}

    def take(self, step: Step) -> None:
        """Do one thing."""
        self.steps += 1
        match step:
            case Make(inode, facts):
                self.seen[inode] = Inode(dict(facts))
                self._kept[inode] = Inode(dict(facts))
            case Name(changes):
                _rename(self.seen, changes)
                self._loose_names[self.steps] = step
                for folder, text, named in changes:
                    self._waiting.setdefault(folder, []).append(self.steps)
                    if named and folder in self._trusted:
                        self._waiting.setdefault(named, []).append(self.steps)
                    if named and (text == self._trusting or folder in self._trusted):
                        self._trusted.add(named)
            case Sync(inode):
                for change in self._loose.pop(inode, ()):
                    self._kept[inode].change(change)
                for number in self._waiting.pop(inode, ()):
                    if name := self._loose_names.pop(number, None):
                        self._keep(number, name, self._kept, self._since)
            case _:
                self.seen[step.inode].change(step)
                self._loose.setdefault(step.inode, []).append(step)

    def _keep(
        self, number: int, name: Name, kept: dict[int, Inode], since: dict[tuple[int, str], int]
    ) -> None:
        for folder, text, inode in name.changes:
            if since.get((folder, text), 0) < number:
                since[folder, text] = number
                _rename(kept, ((folder, text, inode),))

    def after_power_cut(self, survival: float, rng: random.Random) -> dict[int, Inode]:
        """What is there when the power comes back.

        Args:
            survival: Share of what was not synced that is there all the same.
            rng: Decides what of it.

        Returns:
            Inodes by number; those that no name leads to are still among them.
        """
        kept, since = dict(self._kept), dict(self._since)
        for inode, steps in self._loose.items():
            kept[inode] = kept[inode].copy()
            for step in steps:
                if rng.random() < survival:
                    kept[inode].change(step)
                elif survival and rng.random() < TORN and (part := _torn(step, rng)):
                    kept[inode].change(part)
        for number, name in self._loose_names.items():
            if rng.random() < survival:
                for folder, _, _ in name.changes:
                    if kept[folder] is self._kept[folder]:
                        kept[folder] = kept[folder].copy()
                self._keep(number, name, kept, since)
        return kept


def _torn(step: Write | Resize | Describe, rng: random.Random) -> Write | None:
    """What is on disk of a write that the power cut interrupts; None if it is of one sector."""
    if not isinstance(step, Write):
        return None
    first = step.offset // SECTOR + 1
    boundaries = range(first * SECTOR, step.offset + len(step.data), SECTOR)
    if not boundaries:
        return None
    done = rng.choice(boundaries) - step.offset
    if rng.random() < 0.5:
        return step._replace(data=step.data[:done])
    return step._replace(offset=step.offset + done, data=step.data[done:])


def _rename(inodes: dict[int, Inode], changes: tuple[tuple[int, str, int | None], ...]) -> None:
    for folder, name, inode in changes:
        if inode is None:
            inodes[folder].names.pop(name, None)
        else:
            inodes[folder].names[name] = inode


def write_tree(inodes: dict[int, Inode], target: Path, number: int = ROOT) -> None:
    """Write what is below one folder into another that is empty or new, with owners and times."""
    target.mkdir(exist_ok=True)
    for name, below in inodes[number].names.items():
        inode, path = inodes[below], f"{target}/{name}"
        if inode.is_folder:
            write_tree(inodes, Path(path), below)
        elif stat.S_ISREG(inode.facts["st_mode"]):
            with open(path, "wb", buffering=0) as file:  # noqa: PTH123  # there are thousands
                # A log of PostgreSQL is zeros for the most part, and a file may have holes.
                file.write(inode.content.rstrip(b"\0"))
                file.truncate(len(inode.content))
                _describe(file.fileno(), inode.facts)
    _describe(target, inodes[number].facts)


def _describe(what: Path | int, facts: dict[str, int]) -> None:
    os.chown(what, facts["st_uid"], facts["st_gid"])
    os.chmod(what, stat.S_IMODE(facts["st_mode"]))  # noqa: PTH101  # of a descriptor too
    os.utime(what, ns=(facts["st_atime"], facts["st_mtime"]))


def find(inodes: dict[int, Inode], *names: str) -> int:
    """The number of what a path leads to.

    Raises:
        KeyError: it leads nowhere.
    """
    number = ROOT
    for name in names:
        number = inodes[number].names[name]
    return number


@contextmanager
def mounted(folder: Path, record: Path) -> Iterator[Path]:
    """Mount an empty file system; needs root, as mounting does.

    Args:
        folder: Where, made if missing.
        record: Where its changes are written; :func:`steps_of` reads them after the block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # In a process of its own: one that waits for it within C must not hold it up.
    with subprocess.Popen([sys.executable, __file__, str(folder), str(record)]) as server:
        try:
            while not folder.is_mount():
                assert server.poll() is None, "the file system can't be mounted"
                time.sleep(0.01)
            yield folder
        finally:
            server.terminate()  # whoever still has a file open
            server.wait()
            subprocess.run(["umount", "--lazy", "--quiet", str(folder)], check=False)


def steps_of(record: Path) -> list[Step]:
    """What was done in a file system that is not mounted any more."""
    steps: list[Step] = []
    with record.open("rb") as file:
        while True:
            try:
                steps.append(pickle.load(file))
            except EOFError:
                return steps


def _serve(folder: str, record: str) -> None:
    import mfusepy

    class Recorder(mfusepy.Operations):  # type: ignore[misc]
        """The operations of libfuse, on a :class:`Disk` that forgets nothing yet."""

        use_ns = True

        def __init__(self) -> None:
            self._disk = Disk()
            self._record = Path(record).open("wb")  # noqa: SIM115
            self._next = ROOT
            #: Files that were deleted while they were open, which libfuse renames to hidden names.
            self._hidden: dict[str, int] = {}

        def _take(self, step: Step) -> None:
            self._disk.take(step)
            # As of the module that others import, and not of `__main__`.
            pickle.dump(step, self._record, protocol=pickle.HIGHEST_PROTOCOL)

        def destroy(self, path: str) -> None:
            self._record.close()

        def _find(self, path: str) -> int:
            if path in self._hidden:
                return self._hidden[path]
            try:
                return find(self._disk.seen, *Path(path).parts[1:])
            except KeyError:
                raise mfusepy.FuseOSError(errno.ENOENT) from None

        def _place(self, path: str) -> tuple[int, str]:
            return self._find(str(Path(path).parent)), Path(path).name

        def _name(self, *changes: tuple[str, int | None]) -> None:
            self._take(Name(tuple((*self._place(path), inode) for path, inode in changes)))

        def _make(self, path: str, mode: int) -> int:
            uid, gid, _ = mfusepy.fuse_get_context()
            now = time.time_ns()
            self._next += 1
            times = {"st_atime": now, "st_mtime": now, "st_ctime": now}
            facts = {"st_mode": mode, "st_uid": uid, "st_gid": gid, **times}
            self._take(Make(self._next, facts))
            self._name((path, self._next))
            return self._next

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            number = fh or self._find(path)
            inode = self._disk.seen[number]
            size = {"st_size": len(inode.content), "st_blocks": -(-len(inode.content) // 512)}
            return {**inode.facts, **size, "st_ino": number, "st_nlink": 1 + inode.is_folder}

        def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
            folder = self._find(path)
            names = {".": folder, "..": ROOT} | self._disk.seen[folder].names
            for name, number in names.items():
                mode = self._disk.seen[number].facts["st_mode"]
                yield name, {"st_ino": number, "st_mode": mode}, 0

        def mkdir(self, path: str, mode: int) -> None:
            self._make(path, stat.S_IFDIR | mode)

        def mknod(self, path: str, mode: int, dev: int) -> None:
            self._make(path, mode)

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            return self._make(path, stat.S_IFREG | stat.S_IMODE(mode))

        def open(self, path: str, flags: int) -> int:
            return self._find(path)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return bytes(self._disk.seen[fh].content[offset : offset + size])

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            self._take(Write(fh, offset, bytes(data), time.time_ns()))
            return len(data)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            self._take(Resize(fh or self._find(path), length, time.time_ns()))

        def fallocate(self, path: str, mode: int, offset: int, length: int, fh: int) -> None:
            if mode:
                raise mfusepy.FuseOSError(errno.EOPNOTSUPP)
            if offset + length > len(self._disk.seen[fh].content):
                self._take(Resize(fh, offset + length, time.time_ns()))

        def chmod(self, path: str, mode: int) -> None:
            self._take(Describe(self._find(path), {"st_mode": mode}))

        def chown(self, path: str, uid: int, gid: int) -> None:
            asked = {"st_uid": uid, "st_gid": gid}
            changed = {key: value for key, value in asked.items() if value != -1}
            self._take(Describe(self._find(path), changed))

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
            now = time.time_ns()
            accessed, modified = times or (now, now)
            self._take(Describe(self._find(path), {"st_atime": accessed, "st_mtime": modified}))

        def unlink(self, path: str) -> None:
            if self._hidden.pop(path, None) is None:
                self._find(path)
                self._name((path, None))

        def rmdir(self, path: str) -> None:
            if self._disk.seen[self._find(path)].names:
                raise mfusepy.FuseOSError(errno.ENOTEMPTY)
            self._name((path, None))

        def rename(self, old: str, new: str) -> None:
            inode = self._find(old)
            if Path(new).name.startswith(".fuse_hidden"):
                self._hidden[new] = inode
                self._name((old, None))
                return
            with_names = self._disk.seen.get(
                self._disk.seen[self._place(new)[0]].names.get(Path(new).name, 0)
            )
            if with_names and with_names.names:
                raise mfusepy.FuseOSError(errno.ENOTEMPTY)
            self._name((old, None), (new, inode))

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            self._take(Sync(fh))

        def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
            self._take(Sync(self._find(path)))

        def statfs(self, path: str) -> dict[str, int]:
            return {
                "f_bsize": 4096,
                "f_frsize": 4096,
                "f_blocks": 1 << 24,
                "f_bfree": 1 << 23,
                "f_bavail": 1 << 23,
                "f_files": 1 << 20,
                "f_ffree": 1 << 19,
                "f_namemax": 255,
            }

    with suppress(RuntimeError):  # SIGTERM, or what libfuse has said
        mfusepy.FUSE(
            Recorder(), folder, foreground=True, nothreads=True, allow_other=True,
            default_permissions=True, attr_timeout=60, entry_timeout=60, use_ino=True,
            fsname="earmark-test",
        )  # fmt: skip


if __name__ == "__main__":
    import lossy_volume  # so that what is recorded has names that others can import

    lossy_volume._serve(*sys.argv[1:])
