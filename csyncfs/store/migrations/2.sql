-- Hard links: further names of a file have items of their own.
ALTER TABLE inode ADD COLUMN alias_of INTEGER REFERENCES inode(id);
ALTER TABLE inode ADD COLUMN link TEXT;
CREATE INDEX inode_alias_of ON inode(alias_of) WHERE alias_of IS NOT NULL;
CREATE INDEX inode_link ON inode(link) WHERE link IS NOT NULL;

-- Requests under way, and those of which no reply said what became of them.
CREATE TABLE attempt (
    inode       INTEGER PRIMARY KEY,                -- whose promise was being kept; its row may be gone
    key         BLOB NOT NULL,                      -- where what it made is, if it took effect; as intent.key
    is_dir      INTEGER NOT NULL,
    put_id      TEXT,                               -- stamped on what it made; NULL: it moved the item
    tag         TEXT                                -- version of the item it moved; NULL: it made something
) STRICT;
CREATE INDEX attempt_key ON attempt(key);
