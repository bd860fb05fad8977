"""The transfer process: a child that hosts the Backend, and the mount's end of it."""
