"""Settings: typed schema, named presets, strict loading."""
