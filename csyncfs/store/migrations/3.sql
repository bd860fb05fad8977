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
