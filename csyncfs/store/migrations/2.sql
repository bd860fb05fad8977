-- Hard links: further names of a file have items of their own.
ALTER TABLE inode ADD COLUMN alias_of INTEGER REFERENCES inode(id);
ALTER TABLE inode ADD COLUMN link TEXT;
CREATE INDEX inode_alias_of ON inode(alias_of) WHERE alias_of IS NOT NULL;
CREATE INDEX inode_link ON inode(link) WHERE link IS NOT NULL;
