"""Data: the shard format, its writers (converters) and its reader (the webdataset DataModule)."""
