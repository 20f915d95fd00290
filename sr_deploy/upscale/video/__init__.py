"""Videos and streams of raw frames: decode, upscale and encode beside each other; nothing of the source is lost."""
