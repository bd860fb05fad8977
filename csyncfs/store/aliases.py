"""Further names of files (hard links): rows of table ``inode`` with ``alias_of``.

An alias has one name and an item of its own in the cloud, a full copy of the file. Content,
attributes and the number programs see are those of the file, the row without ``alias_of``.
"""

from csyncfs.store import inodes
from csyncfs.store.db import Store
from csyncfs.store.inodes import Dentry, InodeRow
from csyncfs.types import InodeId


def of(store: Store, ino: InodeId) -> list[InodeRow]:
    """The further names of a file, oldest first."""
    rows = store.all("SELECT id FROM inode WHERE alias_of = ? AND nlink > 0 ORDER BY id", (ino,))
    found = (inodes.get(store, row[0]) for row in rows)
    return [row for row in found if row is not None]


def all_names(store: Store, ino: InodeId) -> list[Dentry]:
    """Every name of a file, its own first."""
    rows = [ino, *(row.id for row in of(store, ino))]
    return [dentry for row in rows for dentry in inodes.names_of(store, row)]


def paths_of(store: Store, ino: InodeId) -> list[bytes]:
    """Every path of a file below the mountpoint; none of an unlinked one."""
    rows = [ino, *(row.id for row in of(store, ino))]
    paths = (inodes.path_of(store, row) for row in rows)
    return [path for path in paths if path is not None]


def by_link(store: Store, link: str) -> InodeRow | None:
    """The oldest file of which an item says that it is the same, with the same content."""
    row = store.one(
        "SELECT id FROM inode WHERE link = ? AND alias_of IS NULL AND nlink > 0 "
        "ORDER BY id LIMIT 1",
        (link,),
    )
    return inodes.get(store, row[0]) if row else None


def set_link(store: Store, ino: InodeId, link: str | None) -> None:
    store.run("UPDATE inode SET link = ? WHERE id = ?", (link, ino))


def hand_over(store: Store, old: InodeId, new: InodeId) -> int:
    """The further names of one file are another one's now; how many."""
    return store.run("UPDATE inode SET alias_of = ? WHERE alias_of = ?", (new, old))


def swap_names(store: Store, a: Dentry, b: Dentry) -> None:
    """Two inodes exchange their names, which keep their places in readdir."""
    store.run("UPDATE dentry SET inode = ? WHERE id = ?", (b.inode, a.id))
    store.run("UPDATE dentry SET inode = ? WHERE id = ?", (a.inode, b.id))


def give_name(store: Store, old: InodeId, new: InodeId) -> None:
    """The name of one inode is another one's now, at its place in readdir."""
    store.run("UPDATE dentry SET inode = ? WHERE inode = ?", (new, old))
