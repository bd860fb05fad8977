"""``file:///path``: a local directory, or an EFS/NFS export, as the store.

Other programs may change it at any time. What this package promises all the same: a put
appears completely or not at all, and it never destroys a version nobody named, not even
one a foreign program saves in the very moment (see ``commit``).

    backend.py   the Backend Protocol: threads, cancellation, progress
    tree.py      keys to descriptors, items and their version tags, listings
    temps.py     unfinished items below the reserved directory: content and attributes
    commit.py    taking a name on a condition: create, replace, move, delete
    syscalls.py  renameat2
"""

from csyncfs.backends.directory.backend import DirectoryBackend

__all__ = ["DirectoryBackend"]
