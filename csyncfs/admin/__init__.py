"""csyncfs-admin: what a person asks of a mount, running or not."""
