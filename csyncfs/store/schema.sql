-- The store: names, versions and promises of one mount. Content bytes are in content files.
-- Times are nanoseconds since the epoch (UTC). Names are bytes: POSIX names need not be UTF-8.

CREATE TABLE inode (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused; 1 is the root
    mode        INTEGER NOT NULL,                   -- st_mode with the file type
    nlink       INTEGER NOT NULL,                   -- 0: unlinked; lives while open or while an intent names it
    uid         INTEGER NOT NULL,
    gid         INTEGER NOT NULL,
    rdev        INTEGER NOT NULL DEFAULT 0,
    size        INTEGER NOT NULL DEFAULT 0,         -- bytes, as programs see it
    mtime_ns    INTEGER NOT NULL,
    ctime_ns    INTEGER NOT NULL,
    atime_ns    INTEGER NOT NULL,
    target      BLOB,                               -- symlinks: what they point to; NULL: only the cloud knows yet
    told        INTEGER NOT NULL DEFAULT 1,         -- 0: mode, owner and mtime are guesses, the item was only listed
    in_cloud    INTEGER NOT NULL DEFAULT 0,         -- 1: an item descends from or is this inode
    base_tag    TEXT,                               -- remote version the content descends from; NULL: none, or a directory without marker
    base_size   INTEGER,                            -- bytes of that version
    base_mtime_ns INTEGER,                          -- its LastModified
    base_md5    TEXT,                               -- hex, NULL: not told by the provider
    item_id     TEXT,                               -- provider's stable id; NULL: it has none
    remote_key  BLOB,                               -- UTF-8 key (surrogateescape) of the item, if not at the parent's key + own name; NULL: there
    dirty       INTEGER NOT NULL DEFAULT 0,         -- 1: content not yet in the cloud (a PUT intent exists)
    generation  INTEGER NOT NULL DEFAULT 0,         -- content counter: up with every save of changed bytes
    listed_ns   INTEGER,                            -- directories: end of the last complete listing; NULL: never
    alias_of    INTEGER REFERENCES inode(id),       -- not a file but a further name of this one, with an item of its own
    link        TEXT                                -- what the item says of its file's identity and content (GROUP.STAMP); NULL: nothing
) STRICT;
CREATE INDEX inode_remote_key ON inode(remote_key) WHERE remote_key IS NOT NULL;
CREATE INDEX inode_item_id ON inode(item_id) WHERE item_id IS NOT NULL;
CREATE INDEX inode_orphan ON inode(id) WHERE nlink = 0;
CREATE INDEX inode_alias_of ON inode(alias_of) WHERE alias_of IS NOT NULL;
CREATE INDEX inode_link ON inode(link) WHERE link IS NOT NULL;

CREATE TABLE dentry (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- readdir position: stable while the directory changes
    parent      INTEGER NOT NULL REFERENCES inode(id),
    name        BLOB NOT NULL,
    inode       INTEGER NOT NULL REFERENCES inode(id)
) STRICT;
CREATE UNIQUE INDEX dentry_name ON dentry(parent, name);
CREATE INDEX dentry_position ON dentry(parent, id);
CREATE INDEX dentry_inode ON dentry(inode);

CREATE TABLE xattr (
    inode       INTEGER NOT NULL REFERENCES inode(id) ON DELETE CASCADE,
    name        BLOB NOT NULL,
    value       BLOB NOT NULL,
    PRIMARY KEY (inode, name)
) STRICT, WITHOUT ROWID;

-- Which bytes of a content file are good. No row: no content file.
CREATE TABLE content (
    inode       INTEGER PRIMARY KEY REFERENCES inode(id),
    present     BLOB NOT NULL,                      -- extents we have
    dirty       BLOB NOT NULL,                      -- extents not in the cloud; subset of present
    bytes       INTEGER NOT NULL,                   -- total of present
    dirty_bytes INTEGER NOT NULL,                   -- total of dirty
    used_ns     INTEGER NOT NULL                    -- last use, for eviction
) STRICT;
CREATE INDEX content_used ON content(used_ns);

-- The journal: promises made to programs and not yet kept in the cloud.
CREATE TABLE intent (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of promising
    kind        TEXT NOT NULL CHECK (kind IN ('put', 'move', 'mkdir', 'attrs', 'delete')),
    inode       INTEGER NOT NULL,                   -- delete: the unlinked inode, its row may be gone
    is_dir      INTEGER NOT NULL,
    not_before_ns INTEGER,                          -- NULL: held back (still being written, or hold says why)
    hold        TEXT,                               -- why it waits for the user; NULL: it does not
    attempts    INTEGER NOT NULL DEFAULT 0,
    error       TEXT,                               -- last failure, one line
    put_id      TEXT,                               -- stamped on the version the last attempt may have made
    put_generation INTEGER,                         -- generation that attempt, and resume, are of
    resume      TEXT,                               -- state of a resumable upload, the backend's own JSON;
                                                    -- delete: that of the upload with this put_id
    key         BLOB,                               -- delete: what to delete; UTF-8 (surrogateescape)
    item_id     TEXT,                               -- delete: likewise
    expect_tag  TEXT,                               -- delete: the version we believe in; NULL: none (directories)
    expect_size INTEGER,
    expect_mtime_ns INTEGER,
    created_ns  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX intent_inode ON intent(inode, kind) WHERE kind <> 'delete';
CREATE INDEX intent_due ON intent(not_before_ns, seq);
CREATE INDEX intent_key ON intent(key) WHERE key IS NOT NULL;
CREATE INDEX intent_delete_inode ON intent(inode) WHERE kind = 'delete';

-- Requests under way, and those of which no reply said what became of them.
CREATE TABLE attempt (
    inode       INTEGER PRIMARY KEY,                -- whose promise was being kept; its row may be gone
    key         BLOB NOT NULL,                      -- where what it made is, if it took effect; as intent.key
    is_dir      INTEGER NOT NULL,
    put_id      TEXT,                               -- stamped on what it made; NULL: it moved the item
    tag         TEXT                                -- version of the item it moved; NULL: it made something
) STRICT;
CREATE INDEX attempt_key ON attempt(key);

CREATE TABLE conflict (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    inode       INTEGER NOT NULL,                   -- the set-aside side (the .conflict sibling)
    original    INTEGER NOT NULL,                   -- the inode that took the name
    path        BLOB NOT NULL,                      -- of the original when it happened
    conflict_name BLOB NOT NULL,
    device      TEXT NOT NULL,                      -- whose edit was set aside
    other_device TEXT,                              -- who wrote the version that kept the name, if told
    size        INTEGER NOT NULL,                   -- of the set-aside side
    ancestor_tag TEXT,                              -- version both descend from; NULL: none
    remote_tag  TEXT,                               -- version that kept the name
    remote_mtime_ns INTEGER,
    created_ns  INTEGER NOT NULL
) STRICT;

-- What the change feed told and is not applied yet. An item's latest state only.
CREATE TABLE change (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of telling
    item_id     TEXT NOT NULL UNIQUE,
    parent_id   TEXT,                               -- '': the top of the mount; NULL: the item is gone
    told        BLOB NOT NULL,                      -- types.Change in msgpack
    heard_ns    INTEGER NOT NULL                    -- when the feed was asked
) STRICT;
CREATE INDEX change_gone ON change(seq) WHERE parent_id IS NULL;

-- While everything is told anew: whose item was among it.
CREATE TABLE seen (
    item_id     TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Items that are gone in the cloud, more at once than is done without being told.
CREATE TABLE held (
    inode       INTEGER PRIMARY KEY,                -- what would be removed here, with all below it
    items       INTEGER NOT NULL,                   -- how many that are
    since_ns    INTEGER NOT NULL
) STRICT;

-- Unfinished uploads that nobody goes on with: what they hold in the store is to be freed.
CREATE TABLE unfinished (
    id          INTEGER PRIMARY KEY,
    resume      TEXT NOT NULL                       -- as intent.resume
) STRICT;

CREATE TABLE setting (
    name        TEXT PRIMARY KEY,
    value       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
