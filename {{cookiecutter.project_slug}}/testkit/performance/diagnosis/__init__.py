"""Each module answers one question. They are pytest plugins, loaded on demand with `-p`."""
