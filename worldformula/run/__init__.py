"""One kind of run: a task in a folder, done in parts, stored, and gone on with after any death."""
