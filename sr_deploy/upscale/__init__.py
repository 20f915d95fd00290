"""Pictures through a network: `tiles` cuts and joins, `image` upscales arrays, `files` and `folder` what is on disk."""
